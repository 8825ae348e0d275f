"""What every decoder family is: embed, trunk, head. A family adds its blocks and its embedding.

Pipeline stages delete the parts that are not theirs, so each method touches only its own, and layers are named by
their index in the whole model.
"""

from typing import Any

import torch
from torch import nn

from hanbit.config.model import DecoderConfig
from hanbit.models.batch import Batch, positions_of
from hanbit.models.layers.attention import Attend
from hanbit.models.layers.embedding import embedding_of


class Decoder(nn.Module):
    """`blocks` by index; `norm` is the last one, before the output projection, which may have a bias."""

    def __init__(
        self, config: DecoderConfig, blocks: list[nn.Module], norm: nn.Module, output_bias: bool = False
    ) -> None:
        super().__init__()
        assert isinstance(config.vocabulary, int)
        self.config = config
        self.embedding = embedding_of(config.vocabulary, config.hidden)
        self.layers = nn.ModuleDict({str(index): block for index, block in enumerate(blocks)})
        self.norm = norm
        self.output = nn.Linear(config.hidden, config.vocabulary, bias=output_bias)
        self.tie()

    def tie(self) -> None:
        """Make the output projection share the embedding's weight again, where the config says so and both are here."""
        if self.config.tied and hasattr(self, "embedding") and hasattr(self, "output"):
            self.output.weight = self.embedding.weight

    def embed(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Token ids [..., tokens] int64 -> hidden [..., tokens, hidden]."""
        return self.embedding(tokens)

    def rotation(self, positions: torch.Tensor) -> Any:
        """What blocks need to know of positions [..., tokens], once for all of them."""
        return None

    def rotation_of(self, index: int, rotation: Any) -> Any:
        """What layer `index` takes of it; None: it does not rotate."""
        return rotation

    def trunk(self, hidden: torch.Tensor, positions: torch.Tensor, attend: Attend) -> torch.Tensor:
        """The blocks; `attend(index)` gives layer `index` its function."""
        rotation = self.rotation(positions)
        for index, block in self.layers.items():
            hidden = block(hidden, self.rotation_of(int(index), rotation), attend(int(index)))
        return hidden

    def advance(self, carried: tuple[torch.Tensor, ...], batch: Batch, attend: Attend) -> tuple[torch.Tensor, ...]:
        """One pipeline stage: from what the stage before gave, (hidden,), to the same further on.

        Nothing is carried to the first stage, which embeds the tokens.
        """
        positions = positions_of(batch)
        hidden = carried[0] if carried else self.embed(batch["tokens"], positions)
        return (self.trunk(hidden, positions, attend),)

    def final(self, hidden: torch.Tensor) -> torch.Tensor:
        """The hidden state as the output projection takes it, [..., hidden]; training goes on from here by chunks."""
        return self.norm(hidden)

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden [..., hidden] -> logits [..., vocabulary]."""
        return self.output(self.final(hidden))

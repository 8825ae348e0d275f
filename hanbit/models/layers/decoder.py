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
    """`blocks` by index; `norm` is the last one, before the output projection."""

    def __init__(self, config: DecoderConfig, blocks: list[nn.Module], norm: nn.Module) -> None:
        super().__init__()
        assert isinstance(config.vocabulary, int)
        self.config = config
        self.embedding = embedding_of(config.vocabulary, config.hidden)
        self.layers = nn.ModuleDict({str(index): block for index, block in enumerate(blocks)})
        self.norm = norm
        self.output = nn.Linear(config.hidden, config.vocabulary, bias=False)
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

    def trunk(self, hidden: torch.Tensor, positions: torch.Tensor, attend: Attend) -> torch.Tensor:
        """The blocks; `attend(index)` gives layer `index` its function."""
        rotation = self.rotation(positions)
        for index, block in self.layers.items():
            hidden = block(hidden, rotation, attend(int(index)))
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


class Block(nn.Module):
    """Attention and MLP, each behind a norm and beside the residual stream."""

    def __init__(self, attention_norm: nn.Module, attention: nn.Module, mlp_norm: nn.Module, mlp: nn.Module) -> None:
        super().__init__()
        self.attention_norm = attention_norm
        self.attention = attention
        self.mlp_norm = mlp_norm
        self.mlp = mlp

    def forward(self, hidden: torch.Tensor, rotation: Any, function: Any) -> torch.Tensor:
        hidden = hidden + self.attention(self.attention_norm(hidden), rotation, function)
        return hidden + self.mlp(self.mlp_norm(hidden))

"""BERT (Devlin et al., arXiv 1810.04805): every token sees both sides. Two heads: masked words, and whether two
segments stand in their order (Lan et al., arXiv 1909.11942).

As with decoders, pipeline stages delete the parts that are not theirs, so each method touches only its own.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from hanbit.config.model import BertConfig
from hanbit.models.layers.attention import Attend, Attention, Function
from hanbit.models.layers.embedding import embedding_of
from hanbit.models.layers.mlp import PlainMLP


class Bert(nn.Module):
    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        assert isinstance(config.vocabulary, int)
        self.config = config
        self.embedding = embedding_of(config.vocabulary, config.hidden)
        self.position_embedding = embedding_of(config.context, config.hidden)
        self.segment_embedding = embedding_of(config.segments, config.hidden)
        self.embedding_norm = _norm(config)
        self.layers = nn.ModuleDict({str(index): PostNormBlock(config) for index in range(config.layers)})
        if config.word_head:
            self.transform = nn.Linear(config.hidden, config.hidden)
            self.transform_norm = _norm(config)
            self.output = nn.Linear(config.hidden, config.vocabulary)
        if config.sentence_order:
            self.pooler = nn.Linear(config.hidden, config.hidden)
            self.order = nn.Linear(config.hidden, 2)
        self.tie()

    def tie(self) -> None:
        """Make the output projection share the embedding's weight again, where the config says so and both are here."""
        if self.config.tied and hasattr(self, "embedding") and hasattr(self, "output"):
            self.output.weight = self.embedding.weight

    def embed(self, tokens: torch.Tensor, positions: torch.Tensor, segments: torch.Tensor) -> torch.Tensor:
        """Token ids, positions, segments, each [..., tokens] int64 -> hidden [..., tokens, hidden]."""
        hidden = self.embedding(tokens) + self.segment_embedding(segments) + self.position_embedding(positions)
        return self.embedding_norm(hidden)

    def trunk(self, hidden: torch.Tensor, attend: Attend) -> torch.Tensor:
        for index, block in self.layers.items():
            hidden = block(hidden, attend(int(index)))
        return hidden

    def advance(
        self, carried: tuple[torch.Tensor, ...], batch: dict[str, torch.Tensor], attend: Attend
    ) -> tuple[torch.Tensor, ...]:
        """One stage's part: from `tokens` and `segments` where the embedding is, else from the stage before."""
        if hasattr(self, "embedding"):
            positions = torch.arange(batch["tokens"].shape[1], device=batch["tokens"].device)
            carried = (self.embed(batch["tokens"], positions, batch["segments"]),)
        return (self.trunk(carried[0], attend),)

    def final(self, hidden: torch.Tensor) -> torch.Tensor:
        """The hidden state as the output projection takes it, [..., hidden]."""
        return self.transform_norm(F.gelu(self.transform(hidden)))

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden [..., hidden] -> logits [..., vocabulary]."""
        return self.output(self.final(hidden))

    def order_of(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden [batch, tokens, hidden] -> logits [batch, 2]: segments in their order, segments swapped."""
        return self.order(torch.tanh(self.pooler(hidden[:, 0])))


class PostNormBlock(nn.Module):
    """Attention and MLP, each added to the residual stream, which a norm follows."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        assert isinstance(config.inner, int)
        heads, head_dim = config.heads, config.hidden // config.heads
        self.attention = Attention(config.hidden, heads, heads, head_dim, bias=True, output_bias=True)
        self.attention_norm = _norm(config)
        self.mlp = PlainMLP(config.hidden, config.inner, bias=True, activation=F.gelu)
        self.mlp_norm = _norm(config)

    def forward(self, hidden: torch.Tensor, function: Function) -> torch.Tensor:
        hidden = self.attention_norm(hidden + self.attention(hidden, None, function))
        return self.mlp_norm(hidden + self.mlp(hidden))


def _norm(config: BertConfig) -> Any:
    return nn.LayerNorm(config.hidden, config.norm_epsilon)

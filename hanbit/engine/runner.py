"""One model and one cache: feed tokens, get logits. Every step runs without autograd."""

from collections.abc import Sequence

import torch

from hanbit.engine.attend import CachedAttend
from hanbit.engine.fuse import JoinedAttention
from hanbit.engine.kv_cache import KVCache
from hanbit.models.layers.decoder import Block, Decoder

# Tokens of a prompt fed at once: bounds the memory of a long prompt and keeps matrices large enough for full speed.
PREFILL_TOKENS = 1024


class Runner:
    """Made for one batch: `rows` sequences of at most `capacity` tokens. `model` is a fused one (fuse.py)."""

    def __init__(self, model: Decoder, rows: int, capacity: int) -> None:
        self.model = model
        weight = model.norm.weight
        assert isinstance(weight, torch.Tensor)
        self.device = weight.device
        attentions = [_attention_of(block) for block in model.layers.values()]
        shape = (rows, capacity, attentions[0].key_value_heads, attentions[0].head_dim)
        self.cache = KVCache(len(attentions), shape, weight.dtype, self.device)
        self.attend = CachedAttend(self.cache, (attention.sliding_window for attention in attentions))

    @torch.inference_mode()
    def prefill(self, row: int, tokens: Sequence[int]) -> torch.Tensor:
        """Feed a whole prompt into `row`; logits [vocabulary] after its last token."""
        for start in range(0, len(tokens), PREFILL_TOKENS):
            end = min(start + PREFILL_TOKENS, len(tokens))
            self.attend.prefill(row, start, end)
            positions = torch.arange(start, end, device=self.device).unsqueeze(0)
            hidden = self._trunk(torch.tensor([tokens[start:end]], device=self.device), positions)
        return self.model.head(hidden[0, -1:])[0]

    @torch.inference_mode()
    def decode(self, tokens: Sequence[int], positions: Sequence[int]) -> torch.Tensor:
        """Feed one token to each of the first rows; logits [rows, vocabulary]."""
        self.attend.decode(positions)
        places = torch.tensor(positions, device=self.device).unsqueeze(1)
        hidden = self._trunk(torch.tensor(tokens, device=self.device).unsqueeze(1), places)
        return self.model.head(hidden[:, -1])

    def _trunk(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """tokens, positions [rows, tokens] -> hidden [rows, tokens, hidden]."""
        hidden = self.model.embed(tokens, positions)
        return self.model.trunk(hidden, positions, self.attend)


def _attention_of(block: torch.nn.Module) -> JoinedAttention:
    assert isinstance(block, Block)
    assert isinstance(block.attention, JoinedAttention)
    return block.attention

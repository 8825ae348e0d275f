"""One model and one cache: feed tokens, get logits. Every step runs without autograd."""

from collections.abc import Sequence

import torch

from hanbit.engine.adapters import JoinedAdapter, of_rows
from hanbit.engine.attend import CachedAttend
from hanbit.engine.fuse import JoinedAttention, JoinedBlock
from hanbit.engine.kv_cache import KVCache
from hanbit.engine.native_step import MOST_SEQUENCES, NativeStep, fits
from hanbit.models.layers.decoder import Decoder


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
        self.step = NativeStep(model, self.cache) if fits(model) else None

    @torch.inference_mode()
    def prefill(
        self, row: int, prompt: Sequence[int], start: int, end: int, adapter: JoinedAdapter | None = None
    ) -> torch.Tensor | None:
        """Feed positions start..end of a prompt into `row`, after those before; logits [vocabulary] once all is fed."""
        self.attend.prefill(row, start, end)
        self.attend.adapters = of_rows([adapter], self.device)
        positions = torch.arange(start, end, device=self.device).unsqueeze(0)
        hidden = self._trunk(torch.tensor([prompt[start:end]], device=self.device), positions)
        return self.model.head(hidden[0, -1:])[0] if end == len(prompt) else None

    @torch.inference_mode()
    def decode(
        self, tokens: Sequence[int], positions: Sequence[int], adapters: Sequence[JoinedAdapter | None] = ()
    ) -> torch.Tensor:
        """Feed one token to each of the first rows; logits [rows, vocabulary]. `adapters`: of each row, or of none."""
        if self.step is not None and len(tokens) <= MOST_SEQUENCES and not any(adapters):
            return self.step(tokens, positions)
        self.attend.decode(positions)
        self.attend.adapters = of_rows(adapters, self.device)
        places = torch.tensor(positions, device=self.device).unsqueeze(1)
        hidden = self._trunk(torch.tensor(tokens, device=self.device).unsqueeze(1), places)
        return self.model.head(hidden[:, -1])

    def _trunk(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """tokens, positions [rows, tokens] -> hidden [rows, tokens, hidden]."""
        hidden = self.model.embed(tokens, positions)
        return self.model.trunk(hidden, positions, self.attend)


def _attention_of(block: torch.nn.Module) -> JoinedAttention:
    assert isinstance(block, JoinedBlock)
    return block.attention

"""RMSNorm against transformers' own, in every dtype."""

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from hanbit.models.layers.norm import RMSNorm


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 400.0])  # squares of 400 overflow float16, those of 1e-3 vanish in it
def test_norm_equals_transformers_in_every_dtype(dtype: torch.dtype, scale: float) -> None:
    torch.manual_seed(0)
    ours, theirs = RMSNorm(512, 1e-6).to(dtype), LlamaRMSNorm(512, 1e-6).to(dtype)
    weight = (1 + 0.3 * torch.randn(512)).to(dtype)
    with torch.no_grad():
        ours.weight.copy_(weight)
        theirs.weight.copy_(weight)
        hidden = (scale * torch.randn(3, 512)).to(dtype)
        found, wanted = ours(hidden), theirs(hidden)
    assert found.dtype == dtype
    torch.testing.assert_close(found, wanted, rtol=2 * torch.finfo(dtype).eps, atol=0)
    if dtype != torch.float32:  # rounded where they round, before the weight: once or twice differs in every fourth
        assert (found != wanted).float().mean() < 0.01

"""The engine's short forms of norm and rotation beside the model's own."""

import pytest
import torch

from hanbit.config.model import LlamaConfig
from hanbit.engine.quick import QuickRMSNorm, quick_norm, quick_rotate
from hanbit.models.layers.norm import RMSNorm
from hanbit.models.layers.rotary import rotate, rotation_at


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e4])
def test_norm_is_that_of_the_model_for_small_and_large_rows(size: float) -> None:
    torch.manual_seed(0)
    norm = RMSNorm(48, 1e-5)
    norm.weight.data.normal_()
    hidden = torch.randn(2, 3, 48) * size
    quick = quick_norm(norm)
    assert isinstance(quick, QuickRMSNorm)
    with torch.inference_mode():
        torch.testing.assert_close(quick(hidden), norm(hidden), atol=0, rtol=2e-6)


def test_row_of_zeros_stays_zero() -> None:
    assert quick_norm(RMSNorm(8, 1e-5))(torch.zeros(1, 8)).eq(0).all()


def test_norm_of_another_dtype_is_left_as_it_is() -> None:
    norm = RMSNorm(8, 1e-5).to(torch.bfloat16)
    assert quick_norm(norm) is norm


@pytest.mark.parametrize(("fraction", "dtype"), [(1.0, torch.float32), (0.5, torch.float32), (1.0, torch.bfloat16)])
def test_rotation_is_that_of_the_model(fraction: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        family="llama", vocabulary=64, hidden=32, layers=1, heads=2, head_dim=16, rotary_fraction=fraction
    )
    rotation = rotation_at(torch.arange(5).unsqueeze(0), config)
    heads = torch.randn(1, 5, 2, 16).to(dtype)
    torch.testing.assert_close(quick_rotate(heads, rotation), rotate(heads, rotation), atol=1e-6, rtol=1e-6)

"""Partial rotation, which no architecture of Llama's shape has in transformers, against complex numbers."""

import pytest
import torch

from hanbit.config.model import LlamaConfig
from hanbit.models.layers.rotary import rotate, rotation_at


@pytest.mark.parametrize("fraction", [1.0, 0.5, 0.25])
def test_rotation_equals_multiplication_by_complex_units(fraction: float) -> None:
    config = LlamaConfig(family="llama", layers=1, hidden=32, heads=2, head_dim=16, rotary_fraction=fraction)
    heads, positions = torch.randn(5, 2, 16, dtype=torch.float64), torch.tensor([0, 1, 7, 100, 2000])
    width = int(16 * fraction)
    frequencies = 10000.0 ** -(torch.arange(0, width, 2, dtype=torch.float64) / width)
    turn = torch.polar(torch.ones(5, 1, width // 2, dtype=torch.float64), (positions[:, None] * frequencies)[:, None])
    pairs = torch.complex(heads[..., : width // 2], heads[..., width // 2 : width]) * turn
    wanted = torch.cat([pairs.real, pairs.imag, heads[..., width:]], -1)
    found = rotate(heads.float(), rotation_at(positions, config))
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=5e-4)  # fp32 angles at position 2000

"""Frequencies against transformers' own, bit by bit; rotation, also of parts of a head, against complex numbers."""

from typing import Any

import pytest
import torch
import transformers
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from hanbit.config.model import LlamaConfig
from hanbit.models.huggingface_rotary import rotary_from, rotary_to
from hanbit.models.layers.rotary import frequencies_of, rotate, rotation_at

SHAPE: dict[str, Any] = {"hidden_size": 128, "num_attention_heads": 2, "max_position_embeddings": 4096}
KINDS: list[dict[str, Any]] = [
    {"rope_type": "default"},
    {"rope_type": "linear", "factor": 3.0},
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
     "original_max_position_embeddings": 512},
    {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 2.0, "high_freq_factor": 3.0},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024},
    {"rope_type": "yarn", "factor": 16.0, "beta_fast": 20.0, "beta_slow": 2.0, "attention_factor": 0.9},
    {"rope_type": "yarn", "factor": 1.0, "original_max_position_embeddings": 100},
]  # fmt: skip


@pytest.mark.parametrize("base", [500.0, 10000.0, 1e6])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(str(value) for value in kind.values()))
def test_frequencies_and_scale_are_transformers_own_to_the_last_bit(kind: dict[str, Any], base: float) -> None:
    theirs = transformers.LlamaConfig(**SHAPE, rope_parameters={**kind, "rope_theta": base})
    module = LlamaRotaryEmbedding(theirs)
    found_base, scaling = rotary_from({"rope_parameters": {**kind, "rope_theta": base}})
    ours = LlamaConfig(
        family="llama", layers=1, hidden=128, heads=2, head_dim=64, context=4096, rotary_base=found_base,
        rotary_scaling=scaling,
    )  # fmt: skip
    found, scale = frequencies_of(ours, torch.device("cpu"))
    assert torch.equal(found, module.inv_freq)
    assert scale == module.attention_scaling
    again = rotary_from(rotary_to(ours))
    assert frequencies_of(ours.model_copy(update={"rotary_scaling": again[1]}), torch.device("cpu"))[1] == scale
    assert again == (base, ours.rotary_scaling)


def test_rotation_of_bf16_heads_is_exact_to_bf16_at_far_positions() -> None:
    """Positions or angles rounded to bf16 would be off by whole turns here."""
    config = LlamaConfig(family="llama", layers=1, hidden=32, heads=2, head_dim=16)
    heads, positions = torch.randn(2, 2, 16).bfloat16(), torch.tensor([4099, 30001])
    found = rotate(heads, rotation_at(positions, config))
    assert found.dtype == torch.bfloat16
    # float32 angles are off by 30001 x 2^-24 = 0.002 radians, bf16 results by 2^-9 of their size
    torch.testing.assert_close(found.double(), turned(heads.double(), positions, 16), rtol=2**-8, atol=0.01)


def turned(heads: torch.Tensor, positions: torch.Tensor, width: int) -> torch.Tensor:
    """The first `width` features of float64 heads [tokens, heads, head_dim] as complex numbers, times e^(i angle)."""
    frequencies = 10000.0 ** -(torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = (positions[:, None] * frequencies)[:, None]
    turn = torch.polar(torch.ones_like(angles), angles)
    pairs = torch.complex(heads[..., : width // 2], heads[..., width // 2 : width]) * turn
    return torch.cat([pairs.real, pairs.imag, heads[..., width:]], -1)


@pytest.mark.parametrize("fraction", [1.0, 0.5, 0.25])
def test_rotation_equals_multiplication_by_complex_units(fraction: float) -> None:
    config = LlamaConfig(family="llama", layers=1, hidden=32, heads=2, head_dim=16, rotary_fraction=fraction)
    heads, positions = torch.randn(5, 2, 16, dtype=torch.float64), torch.tensor([0, 1, 7, 100, 2003])
    found = rotate(heads.float(), rotation_at(positions, config))
    wanted = turned(heads, positions, int(16 * fraction))
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=1e-3)  # 2003 x 2^-24 of a radian, heads up to 4

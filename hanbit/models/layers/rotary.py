"""Rotary position embedding (Su et al., arXiv 2104.09864) and the ways to stretch it beyond a trained context.

Frequencies are computed in transformers' own order of operations: another order costs 3e-3 in the logits at 2000
tokens. Everything here is float32 whatever the model computes in: rounded to bf16 it moves logits by 0.7.
"""

import math
from typing import Literal

import torch

from hanbit.config.model import LlamaConfig, NeoXConfig, RotaryScaling

Rotation = tuple[torch.Tensor, torch.Tensor]
RotaryPairs = Literal["halves", "neighbours"]


def rotation_at(positions: torch.Tensor, config: LlamaConfig | NeoXConfig) -> Rotation:
    """(cos, sin), each [..., tokens, 1, rotated width] float32, for integer positions [..., tokens]."""
    frequencies, scale = frequencies_of(config, positions.device)
    angles = positions.unsqueeze(-1).float() * frequencies
    angles = torch.cat((angles, angles), dim=-1).unsqueeze(-2)
    return angles.cos() * scale, angles.sin() * scale


def rotate(heads: torch.Tensor, rotation: Rotation, pairs: RotaryPairs = "halves") -> torch.Tensor:
    """Turn the first `rotated width` features of every head [..., tokens, heads, head_dim]; the rest passes.

    Pairs of neighbours leave as pairs of halves: queries and keys alike, which their products do not notice.
    """
    cos, sin = rotation
    width = cos.shape[-1]
    turning = heads[..., :width]
    if pairs == "neighbours":
        turning = turning.unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)
    turned = _turn(turning, cos, sin)
    return turned if width == heads.shape[-1] else torch.cat((turned, heads[..., width:]), dim=-1)


def _turn(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """In float32; pairs are (i, i + width / 2), as Llama's weights are laid out on Hugging Face."""
    first, second = heads.float().chunk(2, dim=-1)
    half = cos.shape[-1] // 2
    cos, sin = cos[..., :half], sin[..., :half]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(heads.dtype)


def frequencies_of(config: LlamaConfig | NeoXConfig, device: torch.device) -> tuple[torch.Tensor, float]:
    """Radians per token of every pair, [rotated width / 2] float32, and the scale of cos and sin."""
    assert isinstance(config.head_dim, int)
    width = int(config.head_dim * config.rotary_fraction)
    exponents = torch.arange(0, width, 2, device=device).float() / width
    plain = 1.0 / config.rotary_base**exponents
    scaling = config.rotary_scaling
    if scaling is None:
        return plain, 1.0
    if scaling.kind == "linear":
        return plain / scaling.factor, 1.0
    original = scaling.original_context or config.context
    if scaling.kind == "llama3":
        return _llama3(plain, scaling, original), 1.0
    return _yarn(config.rotary_base**exponents, scaling, original, width, config.rotary_base)


def _llama3(plain: torch.Tensor, scaling: RotaryScaling, original: int) -> torch.Tensor:
    """Long waves are stretched, short ones left, those between are blended (Llama 3.1's release code)."""
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    wave = 2 * math.pi / plain
    stretched = torch.where(wave > original / low, plain / scaling.factor, plain)
    smooth = (original / wave - low) / (high - low)
    blended = (1 - smooth) * stretched / scaling.factor + smooth * stretched
    is_between = (wave >= original / high) & (wave <= original / low)
    return torch.where(is_between, blended, stretched)


def _yarn(
    powers: torch.Tensor, scaling: RotaryScaling, original: int, width: int, base: float
) -> tuple[torch.Tensor, float]:
    """YaRN (Peng et al., arXiv 2309.00071): a ramp between stretched and plain frequencies; cos and sin are scaled."""

    def pair_that_turns(times: float) -> float:
        return width * math.log(original / (times * 2 * math.pi)) / (2 * math.log(base))

    low = max(math.floor(pair_that_turns(scaling.beta_fast)), 0)
    high = min(math.ceil(pair_that_turns(scaling.beta_slow)), width - 1)
    span = high - low if high != low else 0.001
    ramp = ((torch.arange(width // 2, device=powers.device).float() - low) / span).clamp(0, 1)
    keep = 1 - ramp
    frequencies = 1.0 / (scaling.factor * powers) * (1 - keep) + 1.0 / powers * keep
    scale = scaling.attention_factor
    if scale is None:
        scale = 0.1 * math.log(scaling.factor) + 1.0 if scaling.factor > 1 else 1.0
    return frequencies, scale

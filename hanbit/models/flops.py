"""Floating-point operations of training one token: the one convention behind every FLOP/s and MFU that hanbit says.

    products   6 x the parameters of matrix products that a token meets: the output projection with them, tied or not,
               the embedding without, for looking a row up multiplies nothing. Forward 2, backward 4.
    attention  12 x layers x heads x head_dim x tokens that a token is held against: q by k, and the result by v.

`full` holds a token against the whole sequence, as Megatron-LM, NeMo, torchtitan and nanoGPT count; `causal` only
against what its mask lets through, half of it. Kernels skip the other half, so that `full` flatters long sequences.
Neither counts what is computed twice (recompute), norms, activations, or the optimizer (Korthikanti et al., arXiv
2205.05198, section 6; Chowdhery et al., PaLM, arXiv 2204.02311, appendix B).
"""

import math
from dataclasses import dataclass

import torch

from hanbit.config.model import MixtureConfig, ModelConfig
from hanbit.models.registry import family_of


@dataclass(frozen=True)
class TokenFlops:
    """Of one token, forward and backward: operations, a multiplication and an addition are two."""

    products: float
    attention: float
    attention_causal: float

    @property
    def full(self) -> float:
        return self.products + self.attention

    @property
    def causal(self) -> float:
        return self.products + self.attention_causal


def flops_per_token(config: ModelConfig, sequence_length: int, is_frozen: bool = False) -> TokenFlops:
    """Of a config whose `auto` values are filled, on sequences of `sequence_length` tokens.

    is_frozen: the weights do not learn (tuning): the gradient passes through them, their own is never computed.
    """
    attention = 12.0 * config.layers * config.heads * _head_dim(config)
    return TokenFlops(
        products=(4.0 if is_frozen else 6.0) * product_parameters(config),
        attention=attention * sequence_length,
        attention_causal=attention * _seen_tokens(sequence_length, getattr(config, "sliding_window", None)),
    )


def product_parameters(config: ModelConfig) -> int:
    """Parameters of the matrices that a token is multiplied with, each use counted: a tied output is one. Of a stack of
    experts those that a token goes through."""
    family = family_of(config)
    with torch.device("meta"):
        model = family.build(config)
    return sum(
        math.prod(_met(config, parameter.shape) if family.plan.rule_of(name).is_stack else parameter.shape)
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if parameter.ndim >= 2 and name.split(".")[0] not in family.plan.first
    )


def _met(config: ModelConfig, shape: tuple[int, ...]) -> tuple[int, ...]:
    assert isinstance(config, MixtureConfig)
    return (config.experts_per_token, *shape[1:])


def _head_dim(config: ModelConfig) -> int:
    head_dim = getattr(config, "head_dim", config.hidden // config.heads)
    assert isinstance(head_dim, int), f"{head_dim!r} was not resolved"
    return head_dim


def _seen_tokens(length: int, window: int | None) -> float:
    """How many tokens one sees on the mean, the diagonal counted half: length / 2 without a window."""
    width = length if window is None else min(window, length)
    return width * (1 - width / (2 * length))

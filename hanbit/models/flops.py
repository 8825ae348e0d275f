"""Floating-point operations of training on one sequence: the one convention behind every FLOP/s and MFU that hanbit
says.

    products   6 x, over the matrices of products, parameters x the tokens that meet them: the output projection with
               them, tied or not, embeddings and tables of positions without, for looking a row up multiplies nothing.
               Forward 2, backward 4. Of experts those that a token goes through; of BERT's head the hidden words and,
               of its second one, a token of each sequence; of T5 each stack its own tokens, and what makes keys and
               values of what the encoder gave the encoder's.
    attention  12 x layers x heads x head_dim x tokens x tokens that each is held against: q by k, and the result by v.
               T5's decoder is held against itself and against the encoder.

`full` holds a token against the whole sequence, as Megatron-LM, NeMo, torchtitan and nanoGPT count; `causal` only
against what its mask lets through, half of it (all of it where both sides are seen). Kernels skip the other half, so
that `full` flatters long sequences. Neither counts what is computed twice (recompute), norms, activations, or the
optimizer (Korthikanti et al., arXiv 2205.05198, section 6; Chowdhery et al., PaLM, arXiv 2204.02311, appendix B).
Megatron-LM's formula for BERT (arXiv 2104.04473, section 5.1) has all tokens go through the head, which nothing needs.
"""

import math
from dataclasses import dataclass

import torch

from hanbit.config.model import BertConfig, LlamaConfig, MixtureConfig, ModelConfig, T5Config
from hanbit.models.registry import family_of


@dataclass(frozen=True)
class Tokens:
    """Of one sequence. `said`: those that go through the output projection; None: all. `written`: of T5's decoder."""

    read: int
    said: int | None = None
    written: int = 0

    @property
    def through_head(self) -> int:
        return (self.written or self.read) if self.said is None else self.said


@dataclass(frozen=True)
class Flops:
    """Of one sequence, forward and backward: operations, a multiplication and an addition are two."""

    products: float
    attention: float
    attention_causal: float

    @property
    def full(self) -> float:
        return self.products + self.attention

    @property
    def causal(self) -> float:
        return self.products + self.attention_causal


def flops_per_sequence(config: ModelConfig, tokens: Tokens, is_frozen: bool = False) -> Flops:
    """Of a config whose `auto` values are filled.

    is_frozen: the weights do not learn (tuning): the gradient passes through them, their own is never computed.
    """
    products = (4.0 if is_frozen else 6.0) * _products(config, tokens)
    of_a_pair = 12.0 * config.heads * _head_dim(config)
    full, seen = _pairs(config, tokens)
    return Flops(products, of_a_pair * full, of_a_pair * seen)


def _products(config: ModelConfig, tokens: Tokens) -> int:
    """Multiplications of the matrices of one sequence, forward, each use counted: a tied output is one."""
    family = family_of(config)
    with torch.device("meta"):
        model = family.build(config)
    return sum(
        math.prod(_met(config, parameter.shape) if family.plan.rule_of(name).is_stack else parameter.shape)
        * _tokens_of(config, name, tokens)
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if parameter.ndim >= 2 and name.split(".")[0] not in (*family.plan.first, "decoder_bias")
    )


def _tokens_of(config: ModelConfig, name: str, tokens: Tokens) -> int:
    """How many tokens of a sequence are multiplied with a matrix."""
    module, *rest = name.split(".")
    if module in ("output", "transform"):
        return tokens.through_head
    if module in ("pooler", "order"):
        return 1
    if isinstance(config, T5Config) and int(rest[0]) >= config.layers:
        reads_encoder = rest[1] == "cross_attention" and rest[2] in ("key", "value")
        return tokens.read if reads_encoder else tokens.written
    return tokens.read


def _pairs(config: ModelConfig, tokens: Tokens) -> tuple[float, float]:
    """Pairs of a token and one that it is held against, over all layers: all of them, and those that a mask shows."""
    read, written = tokens.read, tokens.written
    if isinstance(config, BertConfig):
        return config.layers * read**2, config.layers * read**2
    if isinstance(config, T5Config):
        assert isinstance(config.decoder_layers, int)
        both_sides = config.layers * read**2 + config.decoder_layers * written * read
        own = config.decoder_layers * written**2
        return both_sides + own, both_sides + own / 2
    windows = [config.window_of(layer) if isinstance(config, LlamaConfig) else None for layer in range(config.layers)]
    return config.layers * read**2, read * sum(_seen_tokens(read, window) for window in windows)


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

"""A small configuration of every family of decoders beside gpt, llama and mixture, with all that its plan names."""

from hanbit.config.model import (
    BloomConfig,
    ExaoneConfig,
    GemmaConfig,
    ModelConfig,
    NeoXConfig,
    OPTConfig,
    Phi3Config,
)

_SHAPE = {"layers": 4, "hidden": 32, "heads": 4, "inner": 48, "vocabulary": 19, "context": 64}
_HEADS = {"key_value_heads": 2, "head_dim": 8}

RELATIVES: list[ModelConfig] = [
    NeoXConfig(family="neox", **_SHAPE, rotary_fraction=0.5),
    OPTConfig(family="opt", **_SHAPE),
    BloomConfig(family="bloom", **{**_SHAPE, "inner": 128}),
    GemmaConfig(
        family="gemma", **_SHAPE, **_HEADS, sliding_window=5, query_key_norm=True, window_rotary_base=100.0,
        query_key_value_bias=True, attention_output_bias=True,
    ),
    Phi3Config(family="phi3", **_SHAPE, **_HEADS, rotary_fraction=0.5, query_key_norm=True),
    ExaoneConfig(family="exaone", **_SHAPE, **_HEADS, sliding_window=5, full_every=2),
]  # fmt: skip

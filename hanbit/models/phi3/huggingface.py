"""Folders of Phi3ForCausalLM: Llama's shape with query, key and value in one matrix, gate and up in another.

A stretch of the rotary angles (`longrope`) is not built, and refused.
"""

from typing import Any

from hanbit.common.errors import ModelError
from hanbit.config.model import LlamaConfig, Phi3Config
from hanbit.models.huggingface import Adapter, Source, wanted
from hanbit.models.huggingface_rotary import rotary_in
from hanbit.models.llama import huggingface as llama

_SHARED_KEYS = set(LlamaConfig.model_fields) - {"family", "sliding_window"}
_DEFAULTS: dict[str, Any] = {"max_position_embeddings": 4096, "rms_norm_eps": 1e-5}
_ATTENTION = ("attention.query", "attention.key", "attention.value")
_MLP = ("mlp.gate", "mlp.up")


def config_from(config: dict[str, Any]) -> Phi3Config:
    rotary = rotary_in(config)
    if rotary["rotary_scaling"] is not None:
        kind = rotary["rotary_scaling"].kind
        raise ModelError(f"config.json: rope_type={kind!r} is not built in hanbit for Phi3ForCausalLM")
    whole = {"rope_parameters": None, "rope_scaling": None, "partial_rotary_factor": 1.0, "layer_types": None}
    dense = llama.config_from({**_DEFAULTS, **config, **whole, "model_type": "llama"})
    window = wanted(config, "sliding_window", int, None)
    return Phi3Config(
        family="phi3",
        **{**{key: getattr(dense, key) for key in _SHARED_KEYS}, **rotary},
        sliding_window=window,
    )


def config_to(config: Phi3Config) -> dict[str, Any]:
    biases = (config.query_key_value_bias, config.attention_output_bias, config.mlp_bias, config.query_key_norm)
    if any(biases) or config.rotary_scaling is not None or config.hidden != config.heads * int(config.head_dim):
        keys = ("query_key_value_bias", "attention_output_bias", "mlp_bias", "query_key_norm", "rotary_scaling")
        said = ", ".join(f"{key}={getattr(config, key)}" for key in (*keys, "hidden", "heads", "head_dim"))
        raise ModelError(f"Phi3ForCausalLM cannot have {said}")
    dense = LlamaConfig(family="llama", **{key: getattr(config, key) for key in _SHARED_KEYS})
    found = llama.config_as(dense, "mistral")
    found["rope_parameters"] |= {"partial_rotary_factor": config.rotary_fraction}
    return {
        **found,
        "architectures": ["Phi3ForCausalLM"],
        "model_type": "phi3",
        "sliding_window": config.sliding_window,
        "partial_rotary_factor": config.rotary_fraction,
        "original_max_position_embeddings": config.context,
        "pad_token_id": None,  # the default is beyond small vocabularies
    }


def source_of(name: str, config: Phi3Config) -> Source:
    assert isinstance(config.head_dim, int)
    assert isinstance(config.key_value_heads, int)
    assert isinstance(config.inner, int)
    parts = name.split(".")
    place = ".".join(parts[2:-1])
    layer = f"{llama.PREFIX}layers.{parts[1]}." if len(parts) > 3 else ""
    if place in _ATTENTION:
        keys = config.key_value_heads * config.head_dim
        sizes = (config.heads * config.head_dim, keys, keys)
        return Source(f"{layer}self_attn.qkv_proj.{parts[-1]}", _ATTENTION.index(place), 3, sizes=sizes)
    if place in _MLP:
        return Source(f"{layer}mlp.gate_up_proj.{parts[-1]}", _MLP.index(place), 2, sizes=(config.inner, config.inner))
    return llama.source_of(name, config)


PHI3 = Adapter({"Phi3ForCausalLM": "phi3"}, config_from, config_to, source_of, llama.is_constant, llama.PREFIX)

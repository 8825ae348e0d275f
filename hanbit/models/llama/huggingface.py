"""Folders of Llama's shape: LlamaForCausalLM (SmolLM2 too), Mistral, Qwen2, Qwen3."""

from typing import Any

from hanbit.common.errors import ModelError
from hanbit.config.model import LlamaConfig, RotaryScaling
from hanbit.models.huggingface import Adapter, Source, refuse_unless, wanted

PREFIX = "model."
ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
_DEFAULT_CONTEXT = {"llama": 2048, "mistral": 4096 * 32, "qwen2": 32768, "qwen3": 32768}
_MODULES = {
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.output": "self_attn.o_proj",
    "attention.query_norm": "self_attn.q_norm",
    "attention.key_norm": "self_attn.k_norm",
    "mlp.gate": "mlp.gate_proj",
    "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
    "attention_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
}
_PLAIN = {"embedding.weight": "model.embed_tokens.weight", "norm.weight": "model.norm.weight"}


def config_from(config: dict[str, Any]) -> LlamaConfig:
    kind = config["model_type"]
    refuse_unless(config, "hidden_act", ("silu",))
    refuse_unless(config, "pretraining_tp", (1, None))
    heads = wanted(config, "num_attention_heads", int)
    hidden = wanted(config, "hidden_size", int)
    base, fraction, scaling = _rotary_from(config)
    bias = _biases_from(config, kind)
    return LlamaConfig(
        family="llama",
        layers=wanted(config, "num_hidden_layers", int),
        hidden=hidden,
        heads=heads,
        key_value_heads=_or(wanted(config, "num_key_value_heads", int, None), heads),
        head_dim=_or(wanted(config, "head_dim", int, None), 128 if kind == "qwen3" else hidden // max(heads, 1)),
        inner=wanted(config, "intermediate_size", int),
        vocabulary=wanted(config, "vocab_size", int),
        context=wanted(config, "max_position_embeddings", int, _DEFAULT_CONTEXT[kind]),
        norm_epsilon=float(wanted(config, "rms_norm_eps", (int, float), 1e-6)),
        tied=wanted(config, "tie_word_embeddings", bool, False),
        initial_deviation=float(wanted(config, "initializer_range", (int, float), 0.02)),
        rotary_base=base,
        rotary_fraction=fraction,
        rotary_scaling=scaling,
        query_key_value_bias=bias[0],
        attention_output_bias=bias[1],
        mlp_bias=wanted(config, "mlp_bias", bool, False) if kind == "llama" else False,
        query_key_norm=kind == "qwen3",
        sliding_window=_window_from(config, kind),
    )


def config_to(config: LlamaConfig) -> dict[str, Any]:
    kind = _kind_of(config)
    rotary = _rotary_to(config)
    return {
        "architectures": [ARCHITECTURES[tuple(_DEFAULT_CONTEXT).index(kind)]],
        "model_type": kind,
        "hidden_act": "silu",
        "num_hidden_layers": config.layers,
        "hidden_size": config.hidden,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.key_value_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.inner,
        "vocab_size": config.vocabulary,
        "max_position_embeddings": config.context,
        "rms_norm_eps": config.norm_epsilon,
        "tie_word_embeddings": config.tied,
        "initializer_range": config.initial_deviation,
        # transformers 5 reads the first, everyone else the two behind it
        "rope_parameters": {"rope_theta": config.rotary_base, **rotary},
        "rope_theta": config.rotary_base,
        "rope_scaling": None if config.rotary_scaling is None else rotary,
        **_of_kind(config, kind),
    }


def source_of(name: str) -> Source:
    if name == "output.weight":
        return Source("lm_head.weight")
    if name in _PLAIN:
        return Source(_PLAIN[name])
    _, index, rest = name.split(".", 2)
    module, short = rest.rsplit(".", 1)
    return Source(f"{PREFIX}layers.{index}.{_MODULES[module]}.{short}")


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _biases_from(config: dict[str, Any], kind: str) -> tuple[bool, bool]:
    """(query, key and value; output)."""
    if kind == "qwen2":
        return True, False
    if kind == "mistral":
        return False, False
    both = wanted(config, "attention_bias", bool, False)
    return both, both


def _window_from(config: dict[str, Any], kind: str) -> int | None:
    """One window for all layers is built; layers of two kinds are not."""
    types = config.get("layer_types")
    if types is not None and len(set(types)) > 1:
        raise ModelError("config.json: layer_types mixes sliding and full attention, which is not built in hanbit")
    if kind == "mistral":
        return wanted(config, "sliding_window", int, None)
    if kind == "llama" or not config.get("use_sliding_window", False):
        return None
    first = wanted(config, "max_window_layers", int, 28)
    layers = wanted(config, "num_hidden_layers", int)
    if types is None and 0 < first < layers:
        raise ModelError(f"config.json: max_window_layers={first} of {layers} layers mixes sliding and full attention")
    is_sliding = types[0] == "sliding_attention" if types else first == 0
    return wanted(config, "sliding_window", int, None) if is_sliding else None


def _rotary_from(config: dict[str, Any]) -> tuple[float, float, RotaryScaling | None]:
    """(base, fraction, scaling), from transformers 5's `rope_parameters` or the older two keys."""
    parameters = config.get("rope_parameters") or {}
    scaling = parameters or config.get("rope_scaling") or {}
    if not isinstance(scaling, dict):
        raise ModelError(f"config.json: rope parameters {scaling!r} must be an object")
    base = parameters.get("rope_theta", config.get("rope_theta", 10000.0))
    fraction = parameters.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if fraction != 1.0:
        raise ModelError(
            f"config.json: partial_rotary_factor={fraction}: transformers' own code for this architecture cannot "
            "rotate a part of a head, so what the file means is unknown"
        )
    return float(base), 1.0, None if kind == "default" else _scaling_from(kind, scaling)


def _scaling_from(kind: str, scaling: dict[str, Any]) -> RotaryScaling:
    if kind not in ("linear", "llama3", "yarn"):
        raise ModelError(f"config.json: rope_type={kind!r} is not built in hanbit; it reads linear, llama3, yarn")
    for key in ("mscale", "mscale_all_dim"):
        refuse_unless(scaling, key, (None, 0))
    refuse_unless(scaling, "truncate", (True, None))
    attention_factor = scaling.get("attention_factor")
    return RotaryScaling(
        kind=kind,
        factor=float(wanted(scaling, "factor", (int, float))),
        original_context=wanted(scaling, "original_max_position_embeddings", int, None),
        low_frequency_factor=float(scaling.get("low_freq_factor") or 1.0),
        high_frequency_factor=float(scaling.get("high_freq_factor") or 4.0),
        beta_fast=float(scaling.get("beta_fast") or 32.0),
        beta_slow=float(scaling.get("beta_slow") or 1.0),
        attention_factor=None if attention_factor is None else float(attention_factor),
    )


def _rotary_to(config: LlamaConfig) -> dict[str, Any]:
    scaling = config.rotary_scaling
    if scaling is None:
        return {"rope_type": "default"}
    found: dict[str, Any] = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind != "linear":
        found["original_max_position_embeddings"] = scaling.original_context or config.context
    if scaling.kind == "llama3":
        found |= {"low_freq_factor": scaling.low_frequency_factor, "high_freq_factor": scaling.high_frequency_factor}
    if scaling.kind == "yarn":
        found |= {"beta_fast": scaling.beta_fast, "beta_slow": scaling.beta_slow}
        if scaling.attention_factor is not None:
            found["attention_factor"] = scaling.attention_factor
    return found


def _kind_of(config: LlamaConfig) -> str:
    """The architecture that can say what this config says; ModelError if none can."""
    biases = (config.query_key_value_bias, config.attention_output_bias)
    if config.rotary_fraction != 1.0:
        raise ModelError(
            f"model.rotary_fraction={config.rotary_fraction}: no Hugging Face architecture of Llama's shape has it"
        )
    if config.query_key_norm:
        fits = biases[0] == biases[1] and not config.mlp_bias
        return _if(fits, "qwen3", config)
    if config.sliding_window is not None:
        kind = "qwen2" if biases == (True, False) else "mistral"
        return _if(biases in ((True, False), (False, False)) and not config.mlp_bias, kind, config)
    if biases == (True, False):
        return _if(not config.mlp_bias, "qwen2", config)
    return _if(biases[0] == biases[1], "llama", config)


def _if(fits: bool, kind: str, config: LlamaConfig) -> str:
    if not fits:
        raise ModelError(
            f"no Hugging Face architecture has query_key_norm={config.query_key_norm}, "
            f"query_key_value_bias={config.query_key_value_bias}, attention_output_bias={config.attention_output_bias}, "
            f"mlp_bias={config.mlp_bias}, sliding_window={config.sliding_window} together"
        )
    return kind


def _of_kind(config: LlamaConfig, kind: str) -> dict[str, Any]:
    """Keys that only this architecture has."""
    if kind == "llama":
        return {"attention_bias": config.query_key_value_bias, "mlp_bias": config.mlp_bias}
    if kind == "mistral":
        return {"sliding_window": config.sliding_window}
    is_sliding = config.sliding_window is not None
    window = {
        "use_sliding_window": is_sliding,
        "sliding_window": config.sliding_window,
        "max_window_layers": 0 if is_sliding else config.layers,
    }
    return window if kind == "qwen2" else {**window, "attention_bias": config.query_key_value_bias}


LLAMA = Adapter(ARCHITECTURES, config_from, config_to, source_of, PREFIX)

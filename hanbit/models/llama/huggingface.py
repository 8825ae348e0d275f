"""Folders of Llama's shape: LlamaForCausalLM (SmolLM2 too), Mistral, Qwen2, Qwen3; EXAONE 3 is read, and written as
Llama, which transformers takes it for."""

import re
from typing import Any

from hanbit.common.errors import ModelError
from hanbit.config.model import LlamaConfig
from hanbit.models.huggingface import Adapter, Source, number, refuse_uneven, refuse_unless, under_one_name, wanted
from hanbit.models.huggingface_rotary import rotary_from, rotary_to

PREFIX = "model."
ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "ExaoneForCausalLM": "exaone",
}
_EXAONE_KEYS = {
    "num_layers": "num_hidden_layers",
    "layer_norm_epsilon": "rms_norm_eps",
    "activation_function": "hidden_act",
}
_EXAONE_DEFAULTS: dict[str, Any] = {
    "rope_theta": 500000.0,
    "rms_norm_eps": 1e-5,
    "num_key_value_heads": 8,
    "max_position_embeddings": 4096,
}
_EXAONE_NAMES = (
    (re.compile(r"^transformer\.wte\."), "model.embed_tokens."),
    (re.compile(r"^transformer\.ln_f\."), "model.norm."),
    (re.compile(r"^transformer\.h\."), "model.layers."),
    (re.compile(r"\.attn\.attention\.out_proj\."), ".self_attn.o_proj."),
    (re.compile(r"\.attn\.attention\."), ".self_attn."),
    (re.compile(r"\.ln_1\."), ".input_layernorm."),
    (re.compile(r"\.ln_2\."), ".post_attention_layernorm."),
    (re.compile(r"\.mlp\.c_fc_0\."), ".mlp.gate_proj."),
    (re.compile(r"\.mlp\.c_fc_1\."), ".mlp.up_proj."),
    (re.compile(r"\.mlp\.c_proj\."), ".mlp.down_proj."),
)
_DEFAULT_CONTEXT = {"llama": 2048, "mistral": 4096 * 32, "qwen2": 32768, "qwen3": 32768}
_DEFAULT_WINDOW = 4096  # of a file that does not name it
_FULL, _SLIDING = "full_attention", "sliding_attention"
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
_CONSTANT = re.compile(r"(model\.)?layers\.\d+\.self_attn\.rotary(_emb)?\.inv_freq")


def config_from(config: dict[str, Any]) -> LlamaConfig:
    kind = config["model_type"]
    if kind == "exaone":
        config, kind = {**_EXAONE_DEFAULTS, **under_one_name(config, _EXAONE_KEYS)}, "llama"
    refuse_unless(config, "hidden_act", ("silu",))
    refuse_unless(config, "pretraining_tp", (1, None))
    refuse_unless(config, "rope_interleaved", (False, None))
    base, scaling = rotary_from(config)
    query_key_value_bias, attention_output_bias = _biases_from(config, kind)
    return LlamaConfig(
        family="llama",
        **_heads_from(config, kind),
        layers=wanted(config, "num_hidden_layers", int),
        inner=wanted(config, "intermediate_size", int),
        vocabulary=wanted(config, "vocab_size", int),
        context=wanted(config, "max_position_embeddings", int, _DEFAULT_CONTEXT[kind]),
        norm_epsilon=number(config, "rms_norm_eps", 1e-6),
        tied=wanted(config, "tie_word_embeddings", bool, False),
        initial_deviation=number(config, "initializer_range", 0.02),
        rotary_base=base,
        rotary_scaling=scaling,
        query_key_value_bias=query_key_value_bias,
        attention_output_bias=attention_output_bias,
        mlp_bias=wanted(config, "mlp_bias", bool, False) if kind == "llama" else False,
        query_key_norm=kind == "qwen3",
        sliding_window=_window_from(config, kind),
    )


def config_to(config: LlamaConfig) -> dict[str, Any]:
    return config_as(config, _kind_of(config))


def config_as(config: LlamaConfig, kind: str) -> dict[str, Any]:
    """In the words of that architecture, which can say it."""
    return {
        "architectures": [name for name, its_kind in ARCHITECTURES.items() if its_kind == kind],
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
        **rotary_to(config),
        **_of_kind(config, kind),
    }


def source_of(name: str, config: LlamaConfig) -> Source:
    if name == "output.weight":
        return Source("lm_head.weight")
    if name in _PLAIN:
        return Source(_PLAIN[name])
    _, index, rest = name.split(".", 2)
    module, short = rest.rsplit(".", 1)
    return Source(f"{PREFIX}layers.{index}.{_MODULES[module]}.{short}")


def current_name(name: str) -> str:
    """EXAONE 3's files have GPT-2's names."""
    for pattern, current in _EXAONE_NAMES if name.startswith("transformer.") else ():
        name = pattern.sub(current, name)
    return name


def is_constant(name: str) -> bool:
    """Rotary frequencies, which transformers before 4.32 saved."""
    return _CONSTANT.fullmatch(name) is not None


def _heads_from(config: dict[str, Any], kind: str) -> dict[str, int]:
    hidden, heads = wanted(config, "hidden_size", int), wanted(config, "num_attention_heads", int)
    key_value_heads, head_dim = wanted(config, "num_key_value_heads", int, None), wanted(config, "head_dim", int, None)
    if head_dim is None and kind != "qwen3":
        refuse_uneven("num_attention_heads", heads, "hidden_size", hidden)
    key_value_heads = heads if key_value_heads is None else key_value_heads
    refuse_uneven("num_key_value_heads", key_value_heads, "num_attention_heads", heads)
    if head_dim is None:
        head_dim = 128 if kind == "qwen3" else hidden // max(heads, 1)
    if head_dim % 2:
        raise ModelError(f"config.json: head_dim={head_dim} must be even, because features are rotated in pairs")
    return {"hidden": hidden, "heads": heads, "key_value_heads": key_value_heads, "head_dim": head_dim}


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
    read = {"llama": lambda _: None, "mistral": _window_of_mistral, "qwen2": _window_of_qwen, "qwen3": _window_of_qwen}
    window = read[kind](config)
    expected = _FULL if window is None else _SLIDING
    types = config.get("layer_types")
    if types is not None and (not isinstance(types, list) or any(one != expected for one in types)):
        raise ModelError(
            f"config.json: layer_types has others than {expected}, which sliding_window={window} asks for. "
            "Layers of two kinds are not built in hanbit"
        )
    return window


def _window_of_mistral(config: dict[str, Any]) -> int | None:
    return wanted(config, "sliding_window", (int, type(None)), _DEFAULT_WINDOW)


def _window_of_qwen(config: dict[str, Any]) -> int | None:
    """`layer_types` goes before `max_window_layers`, the number of first layers without a window."""
    if not wanted(config, "use_sliding_window", bool, False):
        return None
    window = _window_of_mistral(config)
    if isinstance(config.get("layer_types"), list):
        return None if config["layer_types"][:1] == [_FULL] else window
    layers, first = wanted(config, "num_hidden_layers", int), wanted(config, "max_window_layers", int, 28)
    if window is not None and 0 < first < layers:
        raise ModelError(
            f"config.json: max_window_layers={first} of {layers} layers mixes sliding and full attention, "
            "which is not built in hanbit"
        )
    return window if first <= 0 else None


def _kind_of(config: LlamaConfig) -> str:
    """The first architecture that can say what this config says; ModelError if none can."""
    biases = (config.query_key_value_bias, config.attention_output_bias)
    is_plain = not config.query_key_norm and not config.mlp_bias
    can_say = {
        # transformers' LlamaConfig alone insists that heads divide the hidden size, head_dim or not
        "llama": not config.query_key_norm
        and biases[0] == biases[1]
        and config.sliding_window is None
        and config.hidden % config.heads == 0,
        "mistral": is_plain and biases == (False, False),
        "qwen2": is_plain and biases == (True, False),
        "qwen3": config.query_key_norm and biases[0] == biases[1] and not config.mlp_bias,
    }
    kinds = [kind for kind, can in can_say.items() if can and config.rotary_fraction == 1.0]
    if not kinds:
        keys = ("query_key_norm", "query_key_value_bias", "attention_output_bias", "mlp_bias", "sliding_window")
        found = ", ".join(f"{key}={getattr(config, key)}" for key in (*keys, "rotary_fraction", "hidden", "heads"))
        written = ", ".join(name for name, kind in ARCHITECTURES.items() if kind in can_say)
        raise ModelError(f"no Hugging Face architecture that hanbit writes ({written}) has {found}")
    return kinds[0]


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


LLAMA = Adapter(ARCHITECTURES, config_from, config_to, source_of, is_constant, PREFIX, current_name=current_name)

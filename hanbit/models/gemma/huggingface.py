"""Folders of GemmaForCausalLM, Gemma2ForCausalLM, Gemma3ForCausalLM: all but what is read here is as in Llama's."""

from typing import Any

from hanbit.common.errors import ModelError
from hanbit.config.model import GemmaConfig, LlamaConfig
from hanbit.models.huggingface import Adapter, Source, number, refuse_unless, wanted
from hanbit.models.huggingface_windows import windows_from, windows_to
from hanbit.models.llama import huggingface as llama

ARCHITECTURES = {"GemmaForCausalLM": "gemma", "Gemma2ForCausalLM": "gemma2", "Gemma3ForCausalLM": "gemma3_text"}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "gemma": {"num_key_value_heads": 16, "max_position_embeddings": 8192},
    "gemma2": {"num_key_value_heads": 4, "max_position_embeddings": 8192, "sliding_window": 4096,
               "final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0},
    "gemma3_text": {"num_key_value_heads": 4, "max_position_embeddings": 131072, "sliding_window": 4096},
}  # fmt: skip
_FULL_EVERY = {"gemma": 2, "gemma2": 2, "gemma3_text": 6}
_TANH = "gelu_pytorch_tanh"
_END_NORMS = {  # what these are called where norms stand on both sides
    "attention_end_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "mlp_end_norm": "post_feedforward_layernorm",
}
_SHARED_KEYS = set(LlamaConfig.model_fields) - {"family", "sliding_window", "query_key_norm", "mlp_bias"}


def config_from(config: dict[str, Any]) -> GemmaConfig:
    kind = config["model_type"]
    config = {"head_dim": 256, "tie_word_embeddings": True, **_DEFAULTS[kind], **config}
    # the first one's files say "gelu" and mean its tanh form (transformers, GemmaConfig.__post_init__)
    refuse_unless(config, "hidden_act", (_TANH, "gelu")) if kind == "gemma" else None
    refuse_unless(config, "hidden_activation", (_TANH, None) if kind == "gemma" else (_TANH,))
    refuse_unless(config, "use_bidirectional_attention", (None, False))
    as_llama: dict[str, Any] = {"model_type": "llama", "hidden_act": "silu", "layer_types": None, "mlp_bias": False}
    own: dict[str, Any] = {"sliding_window": None, "end_norms": False}
    if kind != "gemma":
        own = _second_and_third(config, kind)
    if kind == "gemma3_text":
        rotary, own["window_rotary_base"] = _rotary_of_third(config)
        as_llama |= rotary
    dense = llama.config_from({**config, **as_llama})
    return GemmaConfig(family="gemma", **{key: getattr(dense, key) for key in _SHARED_KEYS}, **own)


def config_to(config: GemmaConfig) -> dict[str, Any]:
    kind = _kind_of(config)
    dense = LlamaConfig(family="llama", **{key: getattr(config, key) for key in _SHARED_KEYS})
    found = {
        **llama.config_as(dense, "llama"),
        "architectures": [name for name, its_kind in ARCHITECTURES.items() if its_kind == kind],
        "model_type": kind,
        "hidden_act": _TANH,
        "hidden_activation": _TANH,
        "pad_token_id": None,  # the default is an everyday token
    }
    del found["mlp_bias"]
    if kind == "gemma":
        return found
    found |= {
        **windows_to(config),
        "sliding_window": config.sliding_window or config.context,  # transformers asks for one where no layer has it
        "query_pre_attn_scalar": _whole(config.query_width or float(config.head_dim)),
        "attn_logit_softcapping": config.score_cap,
        "final_logit_softcapping": config.logit_cap,
    }
    if kind == "gemma2":
        return found
    base = config.rotary_base if config.window_rotary_base is None else config.window_rotary_base
    sliding = {"rope_type": "default", "rope_theta": base}
    both = {"full_attention": found["rope_parameters"], "sliding_attention": sliding}
    return {**found, "rope_parameters": both, "rope_local_base_freq": base}


def source_of(name: str, config: GemmaConfig) -> Source:
    module = name.rsplit(".", 1)[0].split(".", 2)[-1]
    if config.end_norms and module in _END_NORMS:
        index = name.split(".")[1]
        return Source(f"{llama.PREFIX}layers.{index}.{_END_NORMS[module]}.weight")
    return llama.source_of(name, config)


def _second_and_third(config: dict[str, Any], kind: str) -> dict[str, Any]:
    window = wanted(config, "sliding_window", int, None)
    pattern = wanted(config, "sliding_window_pattern", int, _FULL_EVERY[kind]) if kind == "gemma3_text" else 2
    refuse_unless(config, "attn_logit_softcapping", (None,)) if kind == "gemma3_text" else None
    return {
        **windows_from(config, window, pattern),
        "end_norms": True,
        "query_key_norm": kind == "gemma3_text",
        "query_width": number(config, "query_pre_attn_scalar", 256.0),
        "score_cap": number(config, "attn_logit_softcapping", None),
        "logit_cap": number(config, "final_logit_softcapping", None),
    }


def _rotary_of_third(config: dict[str, Any]) -> tuple[dict[str, Any], float]:
    """Keys as Llama's files have them, of layers that see all; the base of those with a window."""
    both = wanted(config, "rope_parameters", dict, None) or {}
    if set(both) - {"full_attention", "sliding_attention"}:
        raise ModelError("config.json: rope_parameters must have full_attention and sliding_attention")
    full, sliding = ({**(wanted(both, kind, dict, None) or {})} for kind in ("full_attention", "sliding_attention"))
    full |= wanted(config, "rope_scaling", dict, None) or {}
    refuse_unless(sliding, "rope_type", ("default",))
    base = number(full, "rope_theta", None) or number(config, "rope_theta", 1e6)
    window_base = number(sliding, "rope_theta", None) or number(config, "rope_local_base_freq", 10000.0)
    return {"rope_parameters": {**full, "rope_theta": base}, "rope_scaling": None}, window_base


def _whole(value: float) -> float:
    """A whole number as one: transformers asks for it."""
    return int(value) if value == int(value) else value


def _kind_of(config: GemmaConfig) -> str:
    """The first architecture that can say what this config says; ModelError if none can."""
    biases = config.query_key_value_bias == config.attention_output_bias
    is_first = config.sliding_window is None and config.query_width in (None, config.head_dim)
    is_uncapped, has_one_base = config.score_cap is None, config.window_rotary_base is None
    is_even = config.hidden % config.heads == 0
    can_say = {
        "gemma": not config.end_norms and not config.query_key_norm and is_first and is_uncapped and has_one_base
        and config.logit_cap is None,
        "gemma2": config.end_norms and not config.query_key_norm and has_one_base and is_even,
        "gemma3_text": config.end_norms and config.query_key_norm and is_uncapped and is_even,
    }  # fmt: skip
    kinds = [kind for kind, can in can_say.items() if can and biases and config.rotary_fraction == 1.0]
    if not kinds:
        own = ("end_norms", "query_key_norm", "sliding_window", "query_width", "score_cap", "logit_cap")
        others = ("window_rotary_base", "query_key_value_bias", "attention_output_bias", "rotary_fraction")
        found = ", ".join(f"{key}={getattr(config, key)}" for key in (*own, *others))
        raise ModelError(f"no Hugging Face architecture that hanbit writes ({', '.join(ARCHITECTURES)}) has {found}")
    return kinds[0]


GEMMA = Adapter(ARCHITECTURES, config_from, config_to, source_of, llama.is_constant, llama.PREFIX)

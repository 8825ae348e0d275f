"""Folders of Exaone4ForCausalLM; EXAONE 3's are Llama's by other names (llama/huggingface.py)."""

from typing import Any

from hanbit.common.errors import ModelError
from hanbit.config.model import ExaoneConfig, LlamaConfig
from hanbit.models.huggingface import Adapter, Source, wanted
from hanbit.models.huggingface_windows import windows_from, windows_to
from hanbit.models.llama import huggingface as llama

_SHARED_KEYS = set(LlamaConfig.model_fields) - {"family", "sliding_window", "query_key_norm", "mlp_bias"}
_DEFAULTS: dict[str, Any] = {"num_key_value_heads": 32, "rms_norm_eps": 1e-5, "sliding_window": 4096}
_END_NORMS = {"attention_end_norm": "post_attention_layernorm", "mlp_end_norm": "post_feedforward_layernorm"}


def config_from(config: dict[str, Any]) -> ExaoneConfig:
    config = {**_DEFAULTS, **config}
    as_llama = {"model_type": "llama", "layer_types": None, "attention_bias": False, "mlp_bias": False}
    dense = llama.config_from({**config, **as_llama})
    window = wanted(config, "sliding_window", int, None)
    pattern = 4
    if config.get("layer_types") is None and window is not None:
        pattern = wanted(config, "sliding_window_pattern", int, 4)
    found = ExaoneConfig(
        family="exaone",
        **{key: getattr(dense, key) for key in _SHARED_KEYS},
        **windows_from(config, window, pattern),
        query_key_norm=True,
    )
    if window is not None and found.sliding_window is None:
        raise ModelError(
            f"config.json: sliding_window={window}, and no layer of layer_types has it: no layer would know positions. "
            "Set sliding_window to null if all are to rotate"
        )
    return found


def config_to(config: ExaoneConfig) -> dict[str, Any]:
    if not config.query_key_norm or config.rotary_fraction != 1.0:
        raise ModelError("Exaone4ForCausalLM has model.query_key_norm=true and model.rotary_fraction=1 alone")
    dense = LlamaConfig(family="llama", **{key: getattr(config, key) for key in _SHARED_KEYS})
    return {
        **llama.config_as(dense, "mistral"),
        "architectures": ["Exaone4ForCausalLM"],
        "model_type": "exaone4",
        **windows_to(config),
        "sliding_window_pattern": None if config.sliding_window is None else config.full_every,
    }


def source_of(name: str, config: ExaoneConfig) -> Source:
    parts = name.split(".")
    if len(parts) == 4 and parts[2] in _END_NORMS:
        return Source(f"{llama.PREFIX}layers.{parts[1]}.{_END_NORMS[parts[2]]}.{parts[3]}")
    return llama.source_of(name, config)


EXAONE = Adapter({"Exaone4ForCausalLM": "exaone4"}, config_from, config_to, source_of, llama.is_constant, llama.PREFIX)

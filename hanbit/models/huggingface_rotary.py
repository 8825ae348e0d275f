"""Rotary parameters in Hugging Face's words, both ways.

Files of transformers before 5 have `rope_theta` and `rope_scaling`, later ones `rope_parameters`. Both are written;
of a file with both, `rope_scaling` counts, as in transformers (RotaryEmbeddingConfigMixin.convert_rope_params_to_dict).
"""

from typing import Any

from hanbit.common.errors import ModelError
from hanbit.config.model import RotaryConfig, RotaryScaling
from hanbit.models.huggingface import number, refuse_unless, wanted

_KINDS = ("linear", "llama3", "yarn")
_KNOWN = {
    "rope_type", "type", "rope_theta", "partial_rotary_factor", "factor", "original_max_position_embeddings",
    "low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim",
    "truncate", "finetuned",
}  # fmt: skip


def rotary_from(config: dict[str, Any]) -> tuple[float, RotaryScaling | None]:
    """(base, scaling) of an architecture whose whole heads are rotated.

    Raises ModelError on a kind or a key that is not built.
    """
    _refuse_partial({**config, **_parameters(config)})
    found = rotary_in(config)
    return found["rotary_base"], found["rotary_scaling"]


def rotary_in(
    config: dict[str, Any],
    base_key: str = "rope_theta",
    fraction_key: str = "partial_rotary_factor",
    fraction: float = 1.0,
) -> dict[str, Any]:
    """`rotary_base`, `rotary_fraction`, `rotary_scaling`; the keys: what they are called where no object has them.

    fraction: of a file that does not say it. Raises ModelError on a kind or a key that is not built.
    """
    parameters = _parameters(config)
    of_base = parameters if "rope_theta" in parameters else {"rope_theta": config.get(base_key)}
    base = number({key: value for key, value in of_base.items() if value is not None}, "rope_theta", 10000.0)
    share = number(parameters, "partial_rotary_factor", None)
    share = number(config, fraction_key, fraction) if share is None else share
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    scaling = None if kind == "default" else _scaling_from(kind, parameters)
    return {"rotary_base": base, "rotary_fraction": share, "rotary_scaling": scaling}


def _parameters(config: dict[str, Any]) -> dict[str, Any]:
    parameters = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if not isinstance(parameters, dict):
        raise ModelError(f"config.json: rope parameters of type {type(parameters).__name__} must be an object")
    unknown = sorted(set(parameters) - _KNOWN)
    if unknown:
        raise ModelError(f"config.json: rope parameters have {unknown[0][:80]!r}, which is not built in hanbit")
    return parameters


def rotary_to(config: RotaryConfig) -> dict[str, Any]:
    """Keys of config.json."""
    scaling = {"rope_type": "default"} if config.rotary_scaling is None else _scaling_to(config, config.rotary_scaling)
    return {
        "rope_theta": config.rotary_base,
        "rope_scaling": None if config.rotary_scaling is None else scaling,
        "rope_parameters": {"rope_theta": config.rotary_base, **scaling},
    }


def _refuse_partial(config: dict[str, Any]) -> None:
    """What a file with a part means is unknown: for these architectures transformers 5.24 rotates whole heads in spite
    of it where nothing is stretched, and fails where something is."""
    fraction = number(config, "partial_rotary_factor", None)
    if fraction not in (None, 1.0):
        raise ModelError(
            f"config.json: partial_rotary_factor={fraction}, which transformers does not honour for this architecture, "
            "so the file contradicts itself. Remove the key if whole heads are rotated"
        )


def _scaling_from(kind: Any, parameters: dict[str, Any]) -> RotaryScaling:
    if kind not in _KINDS:
        raise ModelError(f"config.json: rope_type={kind!r:.80} is not built in hanbit; it reads {', '.join(_KINDS)}")
    found: dict[str, Any] = {"kind": kind, "factor": number(parameters, "factor")}
    if kind != "linear":
        found["original_context"] = wanted(parameters, "original_max_position_embeddings", int, None)
    if kind == "llama3":
        found["low_frequency_factor"] = number(parameters, "low_freq_factor")
        found["high_frequency_factor"] = number(parameters, "high_freq_factor")
    if kind == "yarn":
        for key in ("mscale", "mscale_all_dim"):
            refuse_unless(parameters, key, (None, 0))
        refuse_unless(parameters, "truncate", (True,))
        found["beta_fast"] = number(parameters, "beta_fast", None) or 32.0
        found["beta_slow"] = number(parameters, "beta_slow", None) or 1.0
        found["attention_factor"] = number(parameters, "attention_factor", None)
    return RotaryScaling.model_validate(found)


def _scaling_to(config: RotaryConfig, scaling: RotaryScaling) -> dict[str, Any]:
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

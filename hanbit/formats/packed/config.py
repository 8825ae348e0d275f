"""`quantization_config` of a config.json: whose layout it is, and whatever in it is not read here refused by name."""

from dataclasses import dataclass
from typing import Any

from hanbit.common.errors import ModelError

AWQ, GPTQ, COMPRESSED = "awq", "gptq", "compressed-tensors"
METHODS = (AWQ, GPTQ, COMPRESSED)
_KEY = "config.json: quantization_config"


@dataclass(frozen=True)
class Packing:
    """bits: of a code; None: each matrix tells by its size. adds_one: zeros are stored one too low (GPTQ's first
    format). needs: parts that a matrix may lack elsewhere, but not here."""

    method: str
    bits: int | None
    adds_one: bool = False
    needs: tuple[str, ...] = ()


def packing_of(config: dict[str, Any]) -> Packing | None:
    """None of a folder of plain numbers. Raises ModelError."""
    found = config.get("quantization_config")
    if not found:
        return None
    if not isinstance(found, dict):
        raise ModelError(f"{_KEY} must be an object, not {type(found).__name__}")
    method = found.get("quant_method")
    if method == AWQ:
        return _awq(found)
    if method == GPTQ:
        return _gptq(found)
    if method == COMPRESSED:
        return _compressed(found)
    raise ModelError(
        f"{_KEY}.quant_method={_short(method)} is not read; hanbit reads {', '.join(METHODS)}. Take such a folder, or "
        "the unquantised model"
    )


def _awq(found: dict[str, Any]) -> Packing:
    _require(found, "version", ("gemm", "GEMM", None))
    _require(found, "zero_point", (True, None))
    _require(found, "bits", (4, None))
    _require(found, "w_bit", (4, None))
    return Packing(AWQ, 4)


def _gptq(found: dict[str, Any]) -> Packing:
    _require(found, "bits", (4, 8))
    _require(found, "is_marlin_format", (False, None))
    format = _require(found, "checkpoint_format", ("gptq", "gptq_v2", None))
    needs = ("g_idx",) if _require(found, "desc_act", (True, False, None)) else ()
    return Packing(GPTQ, found["bits"], adds_one=format != "gptq_v2", needs=needs)


def _compressed(found: dict[str, Any]) -> Packing:
    _require(found, "format", ("pack-quantized",))
    _require(found, "kv_cache_scheme", (None,))
    groups = found.get("config_groups")
    if not isinstance(groups, dict) or not groups or not all(isinstance(one, dict) for one in groups.values()):
        raise ModelError(f"{_KEY}.config_groups must be an object that has an object for each group")
    for name, group in groups.items():
        place = f"config_groups.{name:.40}"
        for key in ("input_activations", "output_activations"):
            _require(group, key, (None,), place)
        _require(group, "format", ("pack-quantized", None), place)
        weights = group.get("weights")
        if not isinstance(weights, dict):
            raise ModelError(f"{_KEY}.{place}.weights must be an object")
        _require(weights, "num_bits", (4, 8), f"{place}.weights")
        _require(weights, "type", ("int", None), f"{place}.weights")
        _require(weights, "strategy", ("group", "channel", None), f"{place}.weights")
        _require(weights, "symmetric", (True, False, None), f"{place}.weights")
    # Which group a matrix is of its name does not say: what all groups need, each matrix does.
    all_weights = [group["weights"] for group in groups.values()]
    has_zeros = all(weights.get("symmetric") is False for weights in all_weights)
    has_order = all(weights.get("actorder") in (True, "group", "dynamic") for weights in all_weights)
    needs = (*(("weight_zero_point",) if has_zeros else ()), *(("weight_g_idx",) if has_order else ()))
    return Packing(COMPRESSED, None, needs=needs)


def _require(found: dict[str, Any], key: str, allowed: tuple[Any, ...], place: str = "") -> Any:
    value = found.get(key)
    if not any(value == one and type(value) is type(one) for one in allowed):
        known = ", ".join(repr(one) for one in allowed if one is not None) or "none"
        raise ModelError(f"{_KEY}.{place}{'.' if place else ''}{key}={_short(value)} is not read; hanbit reads {known}")
    return value


def _short(value: Any) -> str:
    return f"{value!r:.80}"

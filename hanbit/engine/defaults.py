"""What a model folder says of generating: its end tokens and how its makers sample. No torch."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanbit.common.errors import GenerationError, ModelError
from hanbit.engine.sampling_params import SamplingParams

_FILES = ("config.json", "generation_config.json")  # the later one wins
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
# What would change which tokens come out, and the value that changes nothing (besides none and 0).
_NOT_USED = {
    "bad_words_ids": None,
    "begin_suppress_tokens": None,
    "epsilon_cutoff": 0,
    "eta_cutoff": 0,
    "exponential_decay_length_penalty": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "guidance_scale": 1,
    "min_length": 0,
    "min_new_tokens": 0,
    "no_repeat_ngram_size": 0,
    "num_beams": 1,
    "penalty_alpha": 0,
    "sequence_bias": None,
    "suppress_tokens": None,
    "top_h": None,
    "typical_p": 1,
}


@dataclass(frozen=True)
class Defaults:
    """`sampling` holds keywords of SamplingParams; empty where the makers name none. `not_used`: what they name and the
    engine does not have."""

    end_ids: frozenset[int]
    sampling: dict[str, Any]
    not_used: dict[str, Any]


def read_defaults(folder: Path, tokenizer_end_id: int | None) -> Defaults:
    """Raises ModelError with file, key and value."""
    end_ids = {tokenizer_end_id} - {None}
    values: dict[str, Any] = {}
    for name in _FILES:
        if (folder / name).is_file():
            values = _read(folder / name)
            end_ids |= set(_ids(folder / name, values.get("eos_token_id")))
    not_used = {key: values[key] for key, neutral in _NOT_USED.items() if values.get(key) and values[key] != neutral}
    return Defaults(frozenset(end_ids), _sampling(folder / _FILES[-1], values), not_used)  # type: ignore[arg-type]


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise ModelError(f"{path} is not JSON: {problem}. Restore it") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path} must hold an object")
    return value


def _ids(path: Path, value: Any) -> list[int]:
    """Files name one end token, several, or none."""
    ids = value if isinstance(value, list) else [] if value is None else [value]
    for id in ids:
        if not isinstance(id, int) or isinstance(id, bool):
            raise ModelError(f"{path}: eos_token_id={value!r} must be a token id or a list of them")
    return ids


def _sampling(path: Path, values: dict[str, Any]) -> dict[str, Any]:
    if not values.get("do_sample", False):
        return {}
    found = {key: values[key] for key in _SAMPLING if values.get(key) is not None}
    try:
        SamplingParams(**found)
    except GenerationError as problem:
        raise ModelError(f"{path}: {problem}") from None
    return found

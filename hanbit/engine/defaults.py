"""What a model folder says of generating: its end tokens, and how its makers sample or search. No torch.

As transformers' `generate` takes them: temperature and the like where the makers draw, beams where they do not, and the
repetition penalty and bad words always.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanbit.common.errors import GenerationError, ModelError
from hanbit.engine.sampling_params import SamplingParams

_FILES = ("config.json", "generation_config.json")  # the later one wins
_DRAWING = ("temperature", "top_k", "top_p", "min_p")
_SEARCHING = ("num_beams", "length_penalty", "early_stopping")
_THEIR_NAMES = {"bad_words": "bad_words_ids", "n": "num_return_sequences"}
# What a request wants another way than by a search, or what a search does not give
_NOT_SEARCHED = (*_DRAWING, "seed", "best_of", "prompt_logprobs")
# What would change which tokens come out, and the value that changes nothing (besides none and 0).
_NOT_USED = {
    "begin_suppress_tokens": None,
    "constraints": None,
    "diversity_penalty": 0,
    "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1,
    "epsilon_cutoff": 0,
    "eta_cutoff": 0,
    "exponential_decay_length_penalty": None,
    "force_words_ids": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "guidance_scale": 1,
    "min_length": 0,
    "min_new_tokens": 0,
    "no_repeat_ngram_size": 0,
    "num_beam_groups": 1,
    "num_beams": 1,  # of those that draw
    "num_return_sequences": 1,  # of those that neither draw nor search
    "penalty_alpha": 0,
    "sequence_bias": None,
    "suppress_tokens": None,
    "top_h": None,
    "typical_p": 1,
}


@dataclass(frozen=True)
class Defaults:
    """`sampling` holds keywords of SamplingParams; empty where the makers name none. `num_answers` to a prompt, where a
    call can give several. `not_used`: what they name and the engine does not have."""

    end_ids: frozenset[int]
    sampling: dict[str, Any]
    not_used: dict[str, Any]
    num_answers: int = 1
    start_id: int | None = None  # what an answer begins behind, where a prompt is read apart

    def over(self, drawing: Mapping[str, Any]) -> dict[str, Any]:
        """Keywords; `drawing` says how to draw where the makers say nothing of it."""
        has_theirs = any(name in self.sampling for name in _DRAWING)
        return {**({} if has_theirs else drawing), **self.sampling}


def merged(makers: Mapping[str, Any], given: Mapping[str, Any], *, in_one_way: bool = False) -> dict[str, Any]:
    """Keywords of SamplingParams: a request's over the makers'. Their search is left where the request says how to
    draw, asks for more than a search gives, or is answered `in_one_way`, as a session is."""
    if "num_beams" not in given and "num_beams" in makers:
        is_otherwise = any(given.get(name) is not None for name in _NOT_SEARCHED)
        if in_one_way or is_otherwise or given.get("n", 1) > makers["num_beams"]:
            makers = {name: value for name, value in makers.items() if name not in _SEARCHING}
    return {**makers, **given}


def read_defaults(folder: Path, tokenizer_end_id: int | None, vocabulary: int | None = None) -> Defaults:
    """Raises ModelError with file, key and value; of tokens outside `vocabulary` too."""
    end_ids: set[int] = set() if tokenizer_end_id is None else {tokenizer_end_id}
    values: dict[str, Any] = {}
    start_id = None
    for name in _FILES:
        if (folder / name).is_file():
            values = _read(folder / name)
            for key in ("eos_token_id", "decoder_start_token_id"):
                _check_ids(folder / name, key, _ids(folder / name, key, values.get(key)), vocabulary)
            end_ids |= set(_ids(folder / name, "eos_token_id", values.get("eos_token_id")))
            start_id = values.get("decoder_start_token_id", start_id)
    found = _keywords(values, end_ids)
    _check(folder / _FILES[-1], found, vocabulary)
    used = {_THEIR_NAMES.get(name, name) for name in found}
    not_used = {key: value for key, value in _others(values).items() if key not in used}
    num_answers = found.pop("n", 1)
    return Defaults(frozenset(end_ids), found, not_used, num_answers, start_id)


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise ModelError(f"{path} is not JSON: {problem}. Restore it") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path} must hold an object")
    return value


def _ids(path: Path, key: str, value: Any) -> list[int]:
    """Files name one token, several, or none."""
    ids = value if isinstance(value, list) else [] if value is None else [value]
    for id in ids:
        if not isinstance(id, int) or isinstance(id, bool):
            raise ModelError(f"{path}: {key}={value!r:.80} must be a token id or a list of them")
    return ids


def _check_ids(path: Path, key: str, ids: list[int], vocabulary: int | None) -> None:
    for id in ids:
        if id < 0 or (vocabulary is not None and id >= vocabulary):
            size = "" if vocabulary is None else f" of {vocabulary}"
            raise ModelError(
                f"{path}: {key} has token {id}, outside the model's vocabulary{size}. It is of another model: copy the "
                "files again from the same place"
            )


def _keywords(values: dict[str, Any], end_ids: set[int]) -> dict[str, Any]:
    """Of SamplingParams, as they stand in the file. An end token alone is no bad word, as in transformers."""
    is_drawn, is_searched = bool(values.get("do_sample")), values.get("num_beams") not in (None, 0, 1)
    names = ("repetition_penalty", *(_DRAWING if is_drawn else _SEARCHING if is_searched else ()))
    found = {name: values[name] for name in names if values.get(name) is not None}
    if words := values.get("bad_words_ids"):
        ends = [[id] for id in end_ids]
        found["bad_words"] = [word for word in words if word not in ends] if isinstance(words, list) else words
    if (is_drawn or is_searched) and values.get("num_return_sequences") not in (None, 0, 1):
        found["n"] = values["num_return_sequences"]
    return found


def _others(values: dict[str, Any]) -> dict[str, Any]:
    return {key: values[key] for key, neutral in _NOT_USED.items() if values.get(key) and values[key] != neutral}


def _check(path: Path, found: dict[str, Any], vocabulary: int | None) -> None:
    try:
        words = SamplingParams(**found).bad_words
    except GenerationError as problem:
        name, _, rest = str(problem).partition("=")
        raise ModelError(f"{path}: {_THEIR_NAMES.get(name, name)}={rest}") from None
    for word in words:
        if isinstance(word, str):
            raise ModelError(f"{path}: bad_words_ids has {word!r:.80}: lists of token ids are meant. Write its ids")
        if vocabulary is not None and max(word) >= vocabulary:
            raise ModelError(
                f"{path}: bad_words_ids has token {max(word)}, outside the model's vocabulary of {vocabulary}. "
                "It is of another model: leave it out"
            )

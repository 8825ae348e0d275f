"""What a folder of sentence-transformers says beside its model: how hidden states become one vector of a text.

modules.json  1_Pooling/config.json  sentence_bert_config.json  config_sentence_transformers.json

https://sbert.net/docs/sentence_transformer/usage/custom_models.html. A module or a setting that changes the vector and
is not built here is refused by name.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hanbit.common.errors import ModelError
from hanbit.common.json_object import read_object

Pooling = Literal["mean", "cls", "last"]

_MODULES = "modules.json"
_TRANSFORMER = "sentence_bert_config.json"
_PROMPTS = "config_sentence_transformers.json"
_MOST_BYTES = 1 << 20
_POOLING_FOLDER = re.compile(r"[A-Za-z0-9_-]{1,80}")  # a name from outside becomes a path only if it is a name
_MODES: dict[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
}
_NAMES: dict[str, Pooling] = {"mean": "mean", "cls": "cls", "lasttoken": "last"}


@dataclass(frozen=True)
class SentenceSettings:
    """Unless a folder says otherwise, what sentence-transformers takes for a folder without modules.

    pooling: mean over a text's tokens, its first (cls) or its last one; normalize: to a length of 1; max_tokens: longer
    texts are not what it was made for; prompt: what stands before every text; is_stated: the folder has modules.
    """

    pooling: Pooling = "mean"
    normalize: bool = False
    max_tokens: int | None = None
    lower_case: bool = False
    prompt: str = ""
    is_stated: bool = False


def settings_files(folder: Path) -> list[str]:
    """Those that are there, relative to `folder`. Raises ModelError."""
    pooling = _pooling_file(folder, _modules(folder))
    names = [_MODULES, _TRANSFORMER, _PROMPTS, *([] if pooling is None else [pooling])]
    return [name for name in names if (folder / name).is_file()]


def read_settings(folder: Path) -> SentenceSettings:
    """Raises ModelError on what is damaged or not built here."""
    modules = _modules(folder)
    pooling = _pooling_file(folder, modules)
    transformer, prompts = _object(folder / _TRANSFORMER), _object(folder / _PROMPTS)
    config = {} if pooling is None else read_object(folder / pooling, _MOST_BYTES, ModelError, "copy the folder again")
    prompt = _prompt(folder / _PROMPTS, prompts)
    if prompt and config.get("include_prompt", True) is not True:
        raise ModelError(f"{folder / str(pooling)}: include_prompt=false beside a prompt is not built")
    return SentenceSettings(
        pooling="mean" if pooling is None else _mode(folder / pooling, config),
        normalize="Normalize" in modules,
        max_tokens=_max_tokens(folder / _TRANSFORMER, transformer),
        lower_case=transformer.get("do_lower_case") is True,
        prompt=prompt,
        is_stated=bool(modules),
    )


def _modules(folder: Path) -> dict[str, str]:
    """Kind of each module -> its folder, in their order; empty where the folder says nothing of modules."""
    path = folder / _MODULES
    if not path.is_file():
        return {}
    found: dict[str, str] = {}
    for entry in _list(path):
        kind, place = (entry.get(key) for key in ("type", "path")) if isinstance(entry, dict) else (None, None)
        if not isinstance(kind, str) or not isinstance(place, str):
            raise ModelError(f"{path}: every module has a type and a path. It is damaged, copy it again")
        found[kind.rpartition(".")[2]] = place
    kinds = list(found)
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise ModelError(f"{path}: modules {', '.join(kinds):.200}; built are Transformer, Pooling, perhaps Normalize")
    if place := found["Transformer"]:
        raise ModelError(f"{path}: the model lies in {place!r:.80}; only models beside modules.json are read")
    return found


def _pooling_file(folder: Path, modules: dict[str, str]) -> str | None:
    if not modules:
        return None
    place = modules["Pooling"]
    if not _POOLING_FOLDER.fullmatch(place):
        raise ModelError(f"{folder / _MODULES}: {place!r:.80} is no name of a folder")
    return f"{place}/config.json"


def _mode(path: Path, config: dict[str, Any]) -> Pooling:
    """Either one name, or a switch a mode, of which one is on."""
    named = config.get("pooling_mode")
    switched = [key for key in config if key.startswith("pooling_mode_") and config[key]]
    chosen = switched if named is None else [named]
    known = _NAMES if named is not None else _MODES
    if len(chosen) != 1 or chosen[0] not in known:
        raise ModelError(f"{path}: pooling {', '.join(map(str, chosen))!r:.80}; one of {', '.join(known)} is built")
    return known[chosen[0]]


def _max_tokens(path: Path, config: dict[str, Any]) -> int | None:
    value = config.get("max_seq_length")
    if value is not None and (type(value) is not int or value < 1):
        raise ModelError(f"{path}: max_seq_length={value!r:.80} must be a whole number from 1")
    return value


def _prompt(path: Path, config: dict[str, Any]) -> str:
    """The one that stands before texts of which nothing else is said."""
    name, prompts = config.get("default_prompt_name"), config.get("prompts", {})
    if name is None:
        return ""
    prompt = prompts.get(name) if isinstance(prompts, dict) and isinstance(name, str) else None
    if not isinstance(prompt, str):
        raise ModelError(f"{path}: default_prompt_name={name!r:.80} is none of its prompts")
    return prompt


def _object(path: Path) -> dict[str, Any]:
    """Empty where the file, which need not be there, is not."""
    return read_object(path, _MOST_BYTES, ModelError, "copy the folder again") if path.is_file() else {}


def _list(path: Path) -> list[Any]:
    try:
        value = json.loads(path.read_bytes()[: _MOST_BYTES + 1])
    except (ValueError, RecursionError) as problem:
        raise ModelError(f"{path} is not JSON: {str(problem)[:200]}. Copy the folder again") from None
    if not isinstance(value, list):
        raise ModelError(f"{path} must hold a list, not a {type(value).__name__}")
    return value

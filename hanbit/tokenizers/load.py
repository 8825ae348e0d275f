"""Read a tokenizer from disk: a Hugging Face folder, or a bare `tokenizer.json`.

A folder may hold, beside `tokenizer.json`, `tokenizer_config.json`, `special_tokens_map.json` and
`chat_template.jinja`; they name the special tokens and the chat template. All of it is data: JSON is parsed, the
template only ever runs in the sandbox of `chat.py`.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import tokenizers

from hanbit.common.atomic import write_json
from hanbit.common.errors import DataError
from hanbit.common.manifest import sha256_of
from hanbit.common.spelling import as_on_disk
from hanbit.tokenizers.tokenizer import Tokenizer

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
SPECIAL_FILE = "special_tokens_map.json"
TEMPLATE_FILE = "chat_template.jinja"

# What a bare tokenizer.json, which names no roles, usually calls its end-of-text token.
_USUAL_ENDS = ("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>", "[EOS]")


def load(path: str | Path) -> Tokenizer:
    """The tokenizer in folder `path`, or in the file `path`. Raises DataError if it is missing or damaged."""
    path = as_on_disk(Path(path))
    file = path / TOKENIZER_FILE if path.is_dir() else path
    if not file.is_file():
        raise DataError(
            f"{file} is missing. Name a Hugging Face folder with {TOKENIZER_FILE}, such a file itself, or let "
            "`hanbit prepare` train a tokenizer by leaving --tokenizer out"
        )
    core = _read_core(file)
    config = {**_read_json(path / SPECIAL_FILE), **_read_json(path / CONFIG_FILE)} if path.is_dir() else {}
    roles = _roles(core, config, path) if path.is_dir() else _guessed_roles(core)
    return Tokenizer(core, roles, _chat_template(path, config), str(path), sha256_of(file))


def _roles(core: tokenizers.Tokenizer, config: dict[str, Any], path: Path) -> dict[str, str]:
    """Role -> token. A begin or end token that the vocabulary lacks is refused; a pad or unknown token is optional."""
    roles = {}
    for role in ("eos", "bos", "pad", "unk"):
        content = _content(config.get(f"{role}_token"))
        if content is None:
            continue
        if core.token_to_id(content) is not None:
            roles[role] = content
        elif role in ("eos", "bos"):
            raise DataError(f"{path}: {role}_token {content!r} is not in {TOKENIZER_FILE}. Use files of one tokenizer")
    return roles


def _guessed_roles(core: tokenizers.Tokenizer) -> dict[str, str]:
    found = [name for name in _USUAL_ENDS if core.token_to_id(name) is not None]
    return {"eos": found[0]} if found else {}


def _read_core(file: Path) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_file(str(file))
    except Exception as problem:  # the library raises bare Exception
        raise DataError(f"{file} is not a readable tokenizer ({problem}). Restore it or make it again") from None


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise DataError(f"{path} is damaged ({problem}). Restore it or make the tokenizer again") from None
    if not isinstance(value, dict):
        raise DataError(f"{path} holds a {type(value).__name__}, expected a JSON object")
    return value


def _content(token: Any) -> str | None:
    """Special tokens are written as a string or as an object with `content`."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _chat_template(path: Path, config: dict[str, Any]) -> str | None:
    """A file beside the tokenizer wins over the configuration; of several named templates, `default`."""
    if path.is_dir() and (path / TEMPLATE_FILE).is_file():
        try:
            return (path / TEMPLATE_FILE).read_text(encoding="utf-8")
        except UnicodeDecodeError as problem:
            raise DataError(f"{path / TEMPLATE_FILE} is not UTF-8 ({problem}). Restore it") from None
    template = config.get("chat_template")
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def copy_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Put the files `tokenizer` was loaded from into `folder`, which exists; a bare file's roles are written down."""
    source = Path(tokenizer.source)
    if source.is_dir():
        for name in (TOKENIZER_FILE, CONFIG_FILE, SPECIAL_FILE, TEMPLATE_FILE):
            if (source / name).is_file():
                shutil.copyfile(source / name, folder / name)
        return
    shutil.copyfile(source, folder / TOKENIZER_FILE)
    roles = {f"{role}_token": token for role, token in tokenizer.roles.items()}
    write_json(folder / CONFIG_FILE, {"tokenizer_class": "PreTrainedTokenizerFast", **roles})

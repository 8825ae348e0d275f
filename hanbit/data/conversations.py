"""Conversations to tune on: JSON lines in the four shapes that people have, each as a list of messages.

    {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}
    {"prompt": "...", "completion": "..."}
    {"instruction": "...", "input": "...", "output": "..."}                          Alpaca; input may be left out
    {"conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}]}       ShareGPT

Nothing is guessed: another key, an unknown role, an answer that is missing or empty is refused with file and line.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanbit.common.errors import DataError
from hanbit.common.spelling import as_on_disk
from hanbit.data.files.jsonl import parsed
from hanbit.data.lines import read_lines

ROLES = ("system", "user", "assistant", "tool")
_SHAREGPT_ROLES = {"system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}

_OWN = Path(__file__).parent / "instructions"

Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Conversation:
    """`place`: "file:line". At least one message is the assistant's."""

    messages: Messages
    place: str


def read_conversations(path: Path | str) -> list[Conversation]:
    """Every line of a .jsonl or .jsonl.gz file, or of one of hanbit's own sets by name; blank ones are skipped.

    Raises DataError with file:line.
    """
    path = _found(as_on_disk(Path(path)))
    found = [_conversation(parsed(line, path), f"{path}:{line.number}") for line in _lines(path)]
    if not found:
        raise DataError(f"{path} is empty. Give it a conversation a line, as docs/tuning.md shows")
    return found


def _found(path: Path) -> Path:
    if path.is_file():
        return path
    names = sorted(file.stem for file in _OWN.glob("*.jsonl"))
    if str(path) in names:
        return _OWN / f"{path}.jsonl"
    raise DataError(f"{path} is not a file of conversations. Name a .jsonl file, or one of {', '.join(names)}")


def _lines(path: Path) -> Iterator[Any]:
    return (line for line in read_lines(path) if line.text.strip())


def _conversation(value: dict[str, Any], place: str) -> Conversation:
    for key, (allowed, read) in _SHAPES.items():
        if key in value:
            _refuse_others(value, allowed, place)
            messages = read(value, place)
            _check(messages, place)
            return Conversation(messages, place)
    raise DataError(
        f"{place}: no key of a conversation; the object has {sorted(value)}. Use one of {', '.join(_SHAPES)}"
    )


def _from_messages(value: dict[str, Any], place: str) -> Messages:
    return [
        _message(item, "role", "content", {role: role for role in ROLES}, place)
        for item in _list(value, "messages", place)
    ]


def _from_sharegpt(value: dict[str, Any], place: str) -> Messages:
    return [_message(item, "from", "value", _SHAREGPT_ROLES, place) for item in _list(value, "conversations", place)]


def _from_pair(value: dict[str, Any], place: str) -> Messages:
    return [_said("user", value, "prompt", place), _said("assistant", value, "completion", place)]


def _from_alpaca(value: dict[str, Any], place: str) -> Messages:
    """The instruction, and below it what it is about."""
    question = _text(value, "instruction", place)
    about = _text(value, "input", place) if value.get("input") else ""
    return [
        {"role": "user", "content": f"{question}\n\n{about}" if about else question},
        _said("assistant", value, "output", place),
    ]


_SHAPES: dict[str, tuple[tuple[str, ...], Callable[[dict[str, Any], str], Messages]]] = {
    "messages": (("messages",), _from_messages),
    "prompt": (("prompt", "completion"), _from_pair),
    "instruction": (("instruction", "input", "output"), _from_alpaca),
    "conversations": (("conversations",), _from_sharegpt),
}


def _message(item: Any, role_key: str, text_key: str, roles: dict[str, str], place: str) -> dict[str, str]:
    if not isinstance(item, dict):
        raise DataError(
            f"{place}: a message is a {type(item).__name__}, expected {{{role_key!r}: ..., {text_key!r}: ...}}"
        )
    _refuse_others(item, (role_key, text_key), place)
    role = item.get(role_key)
    if role not in roles:
        raise DataError(f"{place}: {role_key}={role!r:.80} is not a role. Use {', '.join(roles)}")
    return _said(roles[role], item, text_key, place)


def _said(role: str, value: dict[str, Any], key: str, place: str) -> dict[str, str]:
    return {"role": role, "content": _text(value, key, place)}


def _text(value: dict[str, Any], key: str, place: str) -> str:
    text = value.get(key)
    if not isinstance(text, str):
        found = f"{key!r} is a {type(text).__name__}" if key in value else f"{key!r} is missing"
        raise DataError(f"{place}: {found}, expected text")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise DataError(f"{place}: {key!r} has half a surrogate pair, which is no text. Write the whole pair") from None
    return text


def _list(value: dict[str, Any], key: str, place: str) -> list[Any]:
    items = value[key]
    if not isinstance(items, list) or not items:
        raise DataError(f"{place}: {key!r} must be a list of messages, with one at least")
    return items


def _refuse_others(value: dict[str, Any], allowed: tuple[str, ...], place: str) -> None:
    others = sorted(set(value) - set(allowed))
    if others:
        raise DataError(f"{place}: {others[0][:80]!r} is not a key here; known are {', '.join(allowed)}. Remove it")


def _check(messages: Messages, place: str) -> None:
    """There is an answer, each answers something, and none is empty."""
    roles = [message["role"] for message in messages]
    if "assistant" not in roles:
        raise DataError(f"{place}: no message is the assistant's, so there is nothing to learn. Add the answer")
    for before, message in zip([None, *roles], messages, strict=False):
        if message["role"] == "assistant" and before in (None, "system", "assistant"):
            raise DataError(f"{place}: an assistant's message must follow a user's. Put the question before it")
        if message["role"] == "assistant" and not message["content"].strip():
            raise DataError(f"{place}: an assistant's message is empty. Remove the line, or write what to answer")
        if message["role"] == "system" and before is not None:
            raise DataError(f"{place}: a system message must be the first one")

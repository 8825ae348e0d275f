"""Conversations in every shape that people have become the same messages; all else is refused with its line."""

import json
from pathlib import Path
from typing import Any

import pytest

from hanbit.common.errors import DataError
from hanbit.data.conversations import read_conversations

QUESTION, ANSWER = "안녕? 😀", "Hello."
PAIR = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]


def read(tmp_path: Path, *values: Any) -> list[list[dict[str, str]]]:
    path = tmp_path / "talk.jsonl"
    path.write_text("\n".join(value if isinstance(value, str) else json.dumps(value) for value in values))
    return [conversation.messages for conversation in read_conversations(path)]


@pytest.mark.parametrize(
    "value",
    [
        {"messages": PAIR},
        {"prompt": QUESTION, "completion": ANSWER},
        {"instruction": QUESTION, "output": ANSWER},
        {"instruction": QUESTION, "input": "", "output": ANSWER},
        {"conversations": [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": ANSWER}]},
    ],
    ids=["messages", "prompt and completion", "alpaca", "alpaca, no input", "sharegpt"],
)
def test_every_shape_gives_the_same_messages(value: dict[str, Any], tmp_path: Path) -> None:
    assert read(tmp_path, value, "", value) == [PAIR, PAIR]


def test_alpacas_input_stands_below_the_instruction(tmp_path: Path) -> None:
    found = read(tmp_path, {"instruction": "Translate.", "input": "Guten Tag", "output": "Good day"})
    assert found[0][0]["content"] == "Translate.\n\nGuten Tag"


USER, ASSISTANT = PAIR
REFUSED: dict[str, tuple[Any, str]] = {
    "no JSON": ("{", "not JSON"),
    "a list": ([1], "a JSON list"),
    "no shape": ({"text": "x"}, r"\['text'\]. Use one of messages, prompt, instruction, conversations"),
    "a key beside": ({"messages": PAIR, "weight": 2}, "'weight' is not a key here"),
    "a key in a message": ({"messages": [USER, {**ASSISTANT, "name": "x"}]}, "'name' is not a key here"),
    "no messages": ({"messages": []}, "with one at least"),
    "messages that are text": ({"messages": "hello"}, "must be a list"),
    "a message that is text": ({"messages": ["hello"]}, "a message is a str"),
    "an unknown role": ({"messages": [{"role": "bot", "content": "x"}]}, "role='bot' is not a role"),
    "no role": ({"messages": [{"content": "x"}]}, "role=None is not a role"),
    "no content": ({"messages": [USER, {"role": "assistant"}]}, "'content' is missing"),
    "content that is no text": (
        {"messages": [USER, {"role": "assistant", "content": [1]}]},
        "is a list, expected text",
    ),
    "half a character": ('{"prompt": "\\ud800", "completion": "x"}', "surrogate"),
    "no answer": ({"messages": [USER]}, "no message is the assistant's"),
    "an empty answer": ({"prompt": "x", "completion": "  "}, "is empty"),
    "an answer first": ({"messages": [ASSISTANT, *PAIR]}, "must follow a user's"),
    "two answers": ({"messages": [*PAIR, ASSISTANT]}, "must follow a user's"),
    "a late system message": ({"messages": [*PAIR, {"role": "system", "content": "x"}]}, "must be the first"),
    "no completion": ({"prompt": "x"}, "'completion' is missing"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_is_refused_with_file_and_line(name: str, tmp_path: Path) -> None:
    value, words = REFUSED[name]
    with pytest.raises(DataError, match=rf"talk\.jsonl:2: .*{words}"):
        read(tmp_path, {"messages": PAIR}, value)


def test_nothing_to_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is empty"):
        read(tmp_path, "", " ")
    with pytest.raises(DataError, match="one of json-answers, json-answers-held-out"):
        read_conversations(tmp_path / "nowhere.jsonl")

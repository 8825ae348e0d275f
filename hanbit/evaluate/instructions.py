"""Did tuning teach the shape of an answer? The same prompts asked of the base model and of it with its adapter.

An answer has the shape if all of it is a JSON object of exactly `answer` and `topic`, both text that says something:
what the built-in set `json-answers` teaches. It is right if it holds the expected answer's words. Decoding is greedy.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanbit.common.errors import DataError
from hanbit.data.conversations import read_conversations
from hanbit.engine.llm import LLM
from hanbit.engine.sampling_params import SamplingParams

SHAPE = ("answer", "topic")
HELD_OUT = "json-answers-held-out"
MOST_TOKENS = 48  # an answer of the set has about 25


@dataclass(frozen=True)
class Question:
    prompt: str
    expected: str


@dataclass(frozen=True)
class Answered:
    """One question, what the model said, and what that is worth."""

    question: Question
    text: str
    has_shape: bool
    is_right: bool


def read_questions(source: Path | str = HELD_OUT) -> list[Question]:
    """Prompts and answers of a .jsonl file, or of a built-in set: a user's message, then an answer of the shape.

    Raises DataError with file:line on a conversation of another form.
    """
    questions = []
    for conversation in read_conversations(source):
        roles = [message["role"] for message in conversation.messages]
        prompt, answer = conversation.messages[0]["content"], shaped(conversation.messages[-1]["content"])
        if roles != ["user", "assistant"] or answer is None:
            raise DataError(f"{conversation.place}: not one question and an answer with {' and '.join(SHAPE)}")
        questions.append(Question(prompt, answer["answer"]))
    return questions


def ask(llm: LLM, questions: Sequence[Question], adapter: str | None = None) -> list[Answered]:
    """Each question in a conversation of its own, all at once."""
    prompts = [llm.chat_prompt([{"role": "user", "content": question.prompt}]) for question in questions]
    outputs = llm.generate(prompts, SamplingParams(temperature=0.0, max_tokens=MOST_TOKENS), adapter=adapter)
    return [judged(question, output.text) for question, output in zip(questions, outputs, strict=True)]


def judged(question: Question, text: str) -> Answered:
    """Right: the expected words stand in the text one after another, whole, in small letters or capitals."""
    words = rf"\b{re.escape(question.expected)}\b"
    return Answered(question, text, shaped(text) is not None, re.search(words, text, re.IGNORECASE) is not None)


def shaped(text: str) -> dict[str, str] | None:
    """The object that the text is, or None where it is not one of the shape."""
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or sorted(value) != sorted(SHAPE):
        return None
    is_text = all(isinstance(item, str) and item.strip() for item in value.values())
    return value if is_text else None


def num_shaped(answers: Sequence[Answered]) -> int:
    return sum(answer.has_shape for answer in answers)


def num_right(answers: Sequence[Answered]) -> int:
    return sum(answer.is_right for answer in answers)

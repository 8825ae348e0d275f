"""The shape of an answer, the built-in set, and that asking is the engine's own greedy answer."""

import re
from pathlib import Path

import pytest

from hanbit.common.errors import DataError
from hanbit.data.conversations import read_conversations
from hanbit.engine.llm import LLM
from hanbit.engine.sampling_params import SamplingParams
from hanbit.evaluate.instructions import (
    MOST_TOKENS,
    Question,
    ask,
    judged,
    num_right,
    num_shaped,
    read_questions,
    shaped,
)
from tests.tuning.runs import write_base


@pytest.mark.parametrize(
    ("text", "has_shape"),
    [
        ('{"answer": "Paris", "topic": "geography"}', True),
        ('{"topic": "geography", "answer": "Paris"}', True),
        ('Here it is: {"answer": "Paris", "topic": "geography"}', False),
        ('{"answer": "Paris", "topic": "geography"', False),
        ('{"answer": "Paris"}', False),
        ('{"answer": "Paris", "topic": "geography", "more": 1}', False),
        ('{"answer": 7, "topic": "math"}', False),
        ('{"answer": " ", "topic": "math"}', False),
        ('["answer", "topic"]', False),
        ("[" * 100_000, False),
        ("", False),
    ],
)
def test_only_the_whole_object_has_the_shape(text: str, has_shape: bool) -> None:
    assert (shaped(text) is not None) == has_shape


def test_an_answer_is_right_by_whole_words() -> None:
    question = Question("What is the capital of France?", "Paris")
    assert judged(question, "It is PARIS.").is_right
    assert not judged(question, "Parish").is_right
    answers = [judged(question, text) for text in ('{"answer": "Paris", "topic": "x"}', "Paris", "no", "no")]
    assert num_shaped(answers) == 1
    assert num_right(answers) == 2


def test_expected_answers_stand_in_no_answer_that_is_trained_on() -> None:
    trained = [shaped(one.messages[-1]["content"]) for one in read_conversations("json-answers")]
    assert all(trained), "every training answer has the shape"
    text = " ".join(answer["answer"] for answer in trained if answer).lower()
    questions = read_questions()
    assert len(questions) == 15
    assert "capital" not in " ".join(one.messages[0]["content"] for one in read_conversations("json-answers"))
    for question in questions:
        assert not re.search(rf"\b{re.escape(question.expected.lower())}\b", text), question


def test_a_set_that_is_no_list_of_questions_is_refused_by_line(tmp_path: Path) -> None:
    path = tmp_path / "talk.jsonl"
    path.write_text('{"prompt": "x", "completion": "y"}\n')
    with pytest.raises(DataError, match=r"talk\.jsonl:1: .*answer and topic"):
        read_questions(path)


def test_asking_is_the_engines_greedy_answer(tmp_path: Path) -> None:
    llm = LLM(write_base(tmp_path))
    questions = [Question("the lazy", "dog"), Question("fox", "fox")]
    found = ask(llm, questions)
    for question, answer in zip(questions, found, strict=True):
        wanted = llm.chat(
            [{"role": "user", "content": question.prompt}], SamplingParams(temperature=0.0, max_tokens=MOST_TOKENS)
        )
        assert answer.text == wanted.text

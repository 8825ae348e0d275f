"""Which tokens are answers, against transformers' own mask; batches against a plain reading of them."""

import json
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from hanbit.common.errors import DataError
from hanbit.data.answers import IGNORED, Answers, Sample, encode, end_of_answers, open_answers
from hanbit.data.conversations import Conversation
from hanbit.tokenizers.load import load
from hanbit.tokenizers.tokenizer import Tokenizer
from tests.engine.folders import write_tokenizer
from tests.tuning.runs import CHATML, write_conversations

TALKS = [
    [("user", "Hi"), ("assistant", "Hello.")],
    [("system", "대한민국은"), ("user", "  Who?\n"), ("assistant", "안녕하세요 😀\n\nfox ")],
    [("user", "a"), ("assistant", "b"), ("user", "The quick"), ("assistant", "brown fox"), ("user", "unanswered")],
    [("user", "<|im_end|> in the text"), ("assistant", "\nnew line first, then assistant\n<|im_start|>assistant\n")],
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(path)
    (path / "chat_template.jinja").write_text(CHATML)
    return path


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return load(folder)


@pytest.mark.parametrize("talk", TALKS, ids=["one", "system", "two turns", "control words in text"])
def test_answer_tokens_are_those_that_transformers_marks(
    talk: list[tuple[str, str]], folder: Path, tokenizer: Tokenizer
) -> None:
    messages = [{"role": role, "content": content} for role, content in talk]
    theirs = AutoTokenizer.from_pretrained(folder).apply_chat_template(
        messages, return_assistant_tokens_mask=True, return_dict=True, tokenize=True
    )
    ours = encode(Conversation(messages, "here"), tokenizer)
    assert ours.tokens.tolist() == theirs["input_ids"]
    assert ours.is_answer.tolist() == [bool(mark) for mark in theirs["assistant_masks"]]
    assert ours.is_answer.any()


def test_what_is_learnt_is_what_is_said_after_the_prompt_that_generation_gives(tokenizer: Tokenizer) -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
    sample = encode(Conversation(messages, "here"), tokenizer)
    prompt = tokenizer.encode("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    assert sample.tokens[: len(prompt)].tolist() == prompt
    assert tokenizer.decode(sample.tokens[sample.is_answer]) == "Hello.<|im_end|>"


def test_a_template_that_rewrites_earlier_answers_is_refused(tmp_path: Path, folder: Path) -> None:
    write_tokenizer(tmp_path)
    forgetful = "{% for m in messages %}{{ m.content if loop.last or m.role == 'user' else '...' }};{% endfor %}"
    (tmp_path / "chat_template.jinja").write_text(forgetful)
    messages = [{"role": role, "content": content} for role, content in TALKS[2]]
    with pytest.raises(DataError, match=r"talk.jsonl:3: .*writes an earlier message otherwise"):
        encode(Conversation(messages, "talk.jsonl:3"), load(tmp_path))


def with_template(path: Path, template: str) -> Tokenizer:
    write_tokenizer(path)
    (path / "chat_template.jinja").write_text(template)
    return load(path)


@pytest.mark.parametrize(
    "template", ["", "hello", "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"]
)
def test_a_template_that_leaves_answers_out_is_refused(template: str, tmp_path: Path) -> None:
    messages = [{"role": role, "content": content} for role, content in TALKS[0]]
    with pytest.raises(DataError, match=r"talk.jsonl:7: the chat template of .* writes nothing of the answer"):
        encode(Conversation(messages, "talk.jsonl:7"), with_template(tmp_path, template))


def test_the_end_of_answers_is_found_where_a_template_wants_a_system_message_first(tmp_path: Path) -> None:
    """Asked for once the model is trained: what cannot be found must not keep it from being written."""
    asks = "{% if not messages or messages[0].role != 'system' %}{{ raise_exception('who am I?') }}{% endif %}"
    tokenizer = with_template(tmp_path, asks + CHATML)
    assert end_of_answers(tokenizer) == tokenizer.encode("<|im_end|>")[0]
    assert end_of_answers(with_template(tmp_path, "{{ raise_exception('no') }}")) is None


def samples() -> list[Sample]:
    return [
        Sample(np.arange(10 * i, 10 * i + 4 + i), np.array([False, True, False, True] + [i % 2 == 0] * i))
        for i in range(5)
    ]


def test_batches_are_padded_and_only_answers_are_targets() -> None:
    answers = Answers(samples(), 8, None, pad_id=99)
    batch = answers.arrays(range(5))
    inputs, targets = batch["tokens"], batch["targets"]
    assert inputs[1].tolist() == [10, 11, 12, 13, 99, 99, 99, 99]
    assert targets[1].tolist() == [11, IGNORED, 13, IGNORED, *[IGNORED] * 4]
    assert targets[4].tolist() == [41, IGNORED, 43, 44, 45, 46, 47, IGNORED]


@pytest.mark.parametrize("seed", [None, 3])
def test_counts_equal_what_batches_hold_over_epochs(seed: int | None) -> None:
    answers = Answers(samples(), 8, seed, pad_id=0)
    for first, count in ((0, 3), (0, 5), (0, 17), (3, 4), (4, 8), (13, 1)):
        targets = answers.arrays(range(first, first + count))["targets"]
        assert answers.count_targets(first, count) == (targets >= 0).sum()


def test_every_epoch_has_each_sample_once_in_an_order_of_its_own() -> None:
    answers = Answers(samples(), 8, 3, pad_id=0)
    epochs = [
        [row[0] for row in answers.arrays(range(5 * epoch, 5 * epoch + 5))["tokens"].tolist()] for epoch in range(6)
    ]
    assert all(sorted(epoch) == [0, 10, 20, 30, 40] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_what_is_too_long_is_refused_with_its_line_or_cut_where_that_is_wished(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    path = write_conversations(tmp_path / "talk.jsonl")
    length = max(len(one.tokens) for one in open_answers(path, tokenizer, 500, seed=1).samples) - 1
    assert len(open_answers(path, tokenizer, length, seed=1)) == 12
    with pytest.raises(DataError, match=rf"talk\.jsonl:\d+: .* Raise it to {length}"):
        open_answers(path, tokenizer, length - 1, seed=1)
    cut = open_answers(path, tokenizer, length - 1, seed=1, too_long="truncate")
    assert max(len(one.tokens) for one in cut.samples) == length
    with pytest.raises(DataError, match="leaves nothing of the answer"):
        open_answers(path, tokenizer, 3, seed=1, too_long="truncate")


def test_the_last_conversations_are_for_validation(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "talk.jsonl"
    path.write_text("".join(json.dumps({"prompt": "x", "completion": "y" * (i + 1)}) + "\n" for i in range(10)))
    whole = open_answers(path, tokenizer, 60, seed=1).samples
    train = open_answers(path, tokenizer, 60, seed=1, split=0.2).samples
    kept = open_answers(path, tokenizer, 60, seed=1, split=0.2, part="validation").samples
    assert [one.tokens.tolist() for one in [*train, *kept]] == [one.tokens.tolist() for one in whole]
    assert len(kept) == 2

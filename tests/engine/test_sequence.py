"""A sequence ends for the right reason, and says all of its text and no more. No model and no torch is needed."""

import subprocess
import sys
from pathlib import Path

import pytest

from hanbit.engine.sampling_params import SamplingParams
from hanbit.engine.sequence import Sequence
from hanbit.tokenizers.load import load
from hanbit.tokenizers.tokenizer import Tokenizer

TEXT = "안녕하세요 the quick 😀 fox"


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return load(folder)


def sequence_of(tokenizer: Tokenizer, params: SamplingParams, max_tokens: int = 100) -> Sequence:
    assert tokenizer.end_id is not None
    return Sequence([1], params, max_tokens, frozenset({tokenizer.end_id}), tokenizer)


def fed(sequence: Sequence, ids: list[int]) -> str:
    """Feed until the end; what was said."""
    said = ""
    for id in ids:
        piece = sequence.accept(id)
        said += piece.text
        if piece.finish_reason is not None:
            break
    return said


def test_an_end_token_ends_it_and_is_not_said(tokenizer: Tokenizer) -> None:
    sequence = sequence_of(tokenizer, SamplingParams())
    ids = tokenizer.encode(TEXT)
    assert fed(sequence, [*ids, tokenizer.require_end_id(), *ids]) == TEXT
    assert sequence.output().finish_reason == "stop"
    assert sequence.output().token_ids == (*ids, tokenizer.require_end_id())
    assert sequence.output().text == TEXT


def test_ignore_eos_goes_on_to_max_tokens(tokenizer: Tokenizer) -> None:
    sequence = sequence_of(tokenizer, SamplingParams(ignore_eos=True), max_tokens=5)
    fed(sequence, [tokenizer.require_end_id()] * 9)
    assert sequence.output().finish_reason == "length"
    assert len(sequence.output().token_ids) == 5


@pytest.mark.parametrize("stop", ["녕하", "e q", "😀", "fox", "the quick 😀 fox"])
def test_a_stop_text_over_several_tokens_cuts_exactly(tokenizer: Tokenizer, stop: str) -> None:
    sequence = sequence_of(tokenizer, SamplingParams(stop=[stop, "never"]))
    assert fed(sequence, tokenizer.encode(TEXT)) == TEXT[: TEXT.index(stop)]
    assert sequence.output().finish_reason == "stop"


def test_before_min_tokens_a_stop_text_ends_nothing(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("the quick the quick fox")
    first = len(tokenizer.encode("the quick"))
    for least, wanted in ((0, "the "), (first - 1, "the "), (first, "the quick the "), (len(ids), None)):
        sequence = sequence_of(tokenizer, SamplingParams(stop="qui", min_tokens=least), max_tokens=len(ids))
        assert fed(sequence, ids) == (wanted or "the quick the quick fox")
        assert sequence.output().finish_reason == ("stop" if wanted else "length")


def test_what_was_held_for_a_stop_is_said_at_the_end(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(TEXT)
    sequence = sequence_of(tokenizer, SamplingParams(stop=["fox and more"]), max_tokens=len(ids))
    assert fed(sequence, ids) == TEXT
    assert sequence.output().finish_reason == "length"


def test_an_answer_cut_inside_a_character_equals_the_full_decode(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("a𝄞")[:-1]
    sequence = sequence_of(tokenizer, SamplingParams(), max_tokens=len(ids))
    assert fed(sequence, ids) == tokenizer.decode(ids)
    assert tokenizer.decode(ids).endswith("\ufffd")


def test_random_numbers_belong_to_the_sequence(tokenizer: Tokenizer) -> None:
    one, same, other = (sequence_of(tokenizer, SamplingParams(seed=seed)) for seed in (5, 5, 6))
    assert [one.uniform() for _ in range(3)] == [same.uniform() for _ in range(3)]
    assert one.uniform() != other.uniform()


def test_sequences_and_stops_load_without_torch() -> None:
    modules = "hanbit.engine.sequence, hanbit.engine.sessions, hanbit.engine.stop, hanbit.engine.defaults"
    subprocess.run([sys.executable, "-c", f"import sys, {modules}; assert 'torch' not in sys.modules"], check=True)

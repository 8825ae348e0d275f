"""What a text says next by what it said before, against a plain search from its end. No torch."""

import random
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanbit.engine.drafts import DraftLength
from hanbit.engine.prompt_lookup import PromptLookup


def searched(tokens: list[int], longest: int, shortest: int, count: int) -> list[int]:
    """The longest run that ends the text and is in it before, at its newest place; what follows it, over and over."""
    for length in range(min(longest, len(tokens) - 1), shortest - 1, -1):
        for end in range(len(tokens) - 1, length - 1, -1):
            if tokens[end - length : end] == tokens[-length:]:
                following = tokens[end:]
                return (following * count)[:count]
    return []


@given(
    st.lists(st.integers(0, 3), max_size=60),
    st.lists(st.integers(0, 5), min_size=1, max_size=20),
    st.integers(1, 4),
    st.integers(0, 3),
    st.integers(1, 9),
)
def test_a_guess_is_that_of_a_plain_search_however_the_text_grew(
    tokens: list[int], steps: list[int], shortest: int, more: int, count: int
) -> None:
    lookup, seen = PromptLookup(shortest + more, shortest), 0
    for step in [*steps, len(tokens)]:
        seen += step
        text = tokens[:seen]
        assert lookup.guess(text, count) == searched(text, shortest + more, shortest, count)


def test_a_text_that_repeats_itself_is_guessed_past_its_end() -> None:
    assert PromptLookup(4, 2).guess([5, 1, 2, 3, 1, 2, 3, 1, 2], 7) == [3, 1, 2, 3, 1, 2, 3]
    assert PromptLookup(4, 2).guess([7] * 3, 5) == [7] * 5
    assert PromptLookup(4, 2).guess([1, 2], 5) == []


def test_a_guess_at_the_end_of_a_long_text_looks_at_few_places() -> None:
    """No more work for a text of 100,000 tokens than for one of 1,000: counted, not timed."""

    class Counted(list[int]):
        num_read = 0

        def __getitem__(self, place: object) -> object:  # type: ignore[override]
            Counted.num_read += len(range(*place.indices(len(self)))) if isinstance(place, slice) else 1
            return super().__getitem__(place)  # type: ignore[index]

    numbers, reads = random.Random(1), []
    for size in (1_000, 100_000):
        tokens = Counted(numbers.randrange(50) for _ in range(size))
        lookup = PromptLookup(4, 2)
        lookup.guess(tokens, 8)
        tokens.append(3)
        Counted.num_read = 0
        lookup.guess(tokens, 8)
        reads.append(Counted.num_read)
    assert max(reads) <= 2 * (2 + 3 + 4) + 8


def test_a_draft_grows_while_it_is_right_and_shrinks_to_what_was() -> None:
    length = DraftLength(16)
    wanted = []
    for right in (4, 8, 16, 16, 3, 4, 2):
        tried = length.next()
        wanted.append(tried)
        length.judge(tried, min(right, tried))
    assert wanted == [4, 8, 16, 16, 16, 4, 8]
    assert length.next() == 3


def test_a_sequence_whose_guesses_are_never_right_soon_pays_for_next_to_none() -> None:
    length, tried = DraftLength(8), []
    for _ in range(1000):
        tried.append(length.next())
        if tried[-1]:
            length.judge(tried[-1], 0)
    assert sum(tried[:40]) < 15
    assert sum(tried[40:]) <= 960 // 33 + 1
    for wanted in (1, 2, 4, 8):  # and right ones bring it back
        found = next(found for found in iter(length.next, None) if found)
        assert found == wanted
        length.judge(found, found)


@pytest.mark.parametrize("module", ["prompt_lookup", "drafts", "speculation"])
def test_guessing_loads_without_torch(module: str) -> None:
    code = f"import sys, hanbit.engine.{module}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)

"""T5's samples against the text they were made of."""

from typing import Any

import numpy as np
import pytest

from hanbit.data.reserved import reserve, t5_tokens
from hanbit.data.spans import Spans, lengths_for

END, START = 1, 0
SENTINELS = list(range(999, 899, -1))


class Rows:
    """Text that counts up, 100 to 199."""

    digest = "of the text"

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return 7

    def arrays(self, indices: Any) -> dict[str, np.ndarray]:
        return {"tokens": np.stack([100 + (np.arange(self.length) + int(index)) % 100 for index in indices])}


def spans(length: int = 64, seed: int = 3) -> Spans:
    lengths = lengths_for(length)
    return Spans(Rows(lengths.text), lengths, SENTINELS, END, START, seed)


@pytest.mark.parametrize("length", [*range(16, 300), 512, 1024, 2048])
def test_both_sides_have_one_length_and_the_encoders_is_the_sequence_length(length: int) -> None:
    assert lengths_for(length).encoder == length


def test_lengths_are_those_of_t5() -> None:
    """T5's `random_spans_helper` for 512 and 15%, 3: 568 tokens of text, 114 of targets."""
    lengths = lengths_for(512)
    assert (lengths.text, lengths.decoder) == (568, 114)


def test_putting_the_spans_back_gives_the_text() -> None:
    samples = spans()
    batch = samples.arrays(range(20))
    texts = Rows(samples.lengths.text).arrays(range(20))["tokens"]
    for tokens, targets, text in zip(batch["tokens"], batch["targets"], texts, strict=True):
        assert (tokens[-1], targets[-1]) == (END, END)
        parts = np.split(targets[:-1], np.flatnonzero(targets[:-1] >= 900))[1:]
        assert [part[0] for part in parts] == SENTINELS[: samples.lengths.spans]
        taken = {part[0]: part[1:] for part in parts}
        assert all(len(part) > 0 for part in taken.values())
        back = np.concatenate([taken.get(token, np.array([token])) for token in tokens[:-1]])
        assert np.array_equal(back, text)
    assert samples.count_targets(3, 20) == batch["targets"].size


def test_the_decoder_reads_what_it_should_have_said_before() -> None:
    batch = spans().arrays(range(5))
    assert (batch["decoder_tokens"][:, 0] == START).all()
    assert np.array_equal(batch["decoder_tokens"][:, 1:], batch["targets"][:, :-1])


def test_spans_depend_on_seed_and_index_alone() -> None:
    one = spans().arrays(range(20))
    for name, array in spans().arrays([11, 3]).items():
        assert np.array_equal(array, one[name][[11, 3]])
    assert not np.array_equal(one["tokens"], spans(seed=4).arrays(range(20))["tokens"])


def test_ids_that_no_tokenizer_has_are_the_last_of_the_vocabulary() -> None:
    reserved = reserve(t5_tokens(2), None, 1000)
    assert (reserved.ids["<extra_id_0>"], reserved.ids["<extra_id_1>"], reserved.ids["</s>"]) == (999, 998, 899)
    assert reserved.text_ids == 899

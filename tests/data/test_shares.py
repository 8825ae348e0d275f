"""The order of a blend against a plain count: every source keeps to its share, whatever the weights."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanbit.data.shares import LONGEST_PERIOD, Shares, whole_parts

WEIGHTS = st.lists(st.integers(1, 2000).map(lambda part: part / 1000), min_size=1, max_size=7)


@settings(max_examples=60, deadline=None)
@given(WEIGHTS)
def test_no_source_is_ever_a_whole_sample_from_its_share(weights: list[float]) -> None:
    shares = Shares(weights)
    count = min(3 * shares.period, 20_000)
    sources, _ = shares.source_of(np.arange(count))
    for source, weight in enumerate(weights):
        taken = np.cumsum(sources == source)
        wanted = np.arange(1, count + 1) * (weight / sum(weights))
        assert np.abs(taken - wanted).max() < 1


def test_megatrons_rule_would_leave_a_source_further_behind() -> None:
    """Why we do not take the source that is furthest behind (build_blending_indices of Megatron-LM)."""
    weights, taken, worst = np.array([0.8621, 0.0958, 0.0069, 0.0337, 0.0015]), np.zeros(5), 0.0
    for index in range(300):
        taken[np.argmax(weights * max(index, 1) - taken)] += 1
        worst = max(worst, np.abs(weights * (index + 1) - taken).max())
    assert worst > 1.5
    sources, _ = Shares(list(weights)).source_of(np.arange(300))
    counts = np.cumsum(sources[:, None] == np.arange(5), axis=0)
    assert np.abs(counts - np.arange(1, 301)[:, None] * weights).max() < 1


def test_samples_of_a_source_are_numbered_without_gap_across_periods() -> None:
    shares = Shares([0.5, 0.3, 0.2])
    assert shares.parts == [5, 3, 2]
    sources, numbers = shares.source_of(np.arange(1000))
    for source in range(3):
        assert numbers[sources == source].tolist() == list(range(int((sources == source).sum())))
    for index in (0, 1, 7, 10, 999):
        assert shares.taken_before(index) == np.bincount(sources[:index], minlength=3).tolist()


@pytest.mark.parametrize(
    ("weights", "parts"),
    [([1.0], [1]), ([0.7, 0.3], [7, 3]), ([30, 70], [3, 7]), ([0.333, 0.333, 0.333], [1, 1, 1]), ([2.5, 1], [5, 2])],
)
def test_weights_are_read_as_they_are_written(weights: list[float], parts: list[int]) -> None:
    assert whole_parts(weights) == parts


def test_weights_without_a_short_period_are_rounded_to_a_millionth() -> None:
    weights = [0.12345678901, 0.5, 1e-9]
    parts = whole_parts(weights)
    assert abs(sum(parts) - LONGEST_PERIOD) <= 3
    for part, weight in zip(parts, weights, strict=True):
        assert abs(part / sum(parts) - weight / sum(weights)) < 2e-6
    assert parts[2] == 1

"""Which process has which stage of the pipeline."""

import pytest

from hanbit.parallel.grid import Axis
from hanbit.parallel.schedules import ScheduleName, stage_numbers


def numbers(name: ScheduleName, virtual: int, processes: int) -> list[tuple[int, ...]]:
    return [stage_numbers(name, virtual, Axis("pipeline", processes, rank)) for rank in range(processes)]


@pytest.mark.parametrize(
    ("name", "virtual", "wanted"),
    [
        ("gpipe", 1, [(0,), (1,), (2,)]),
        ("1f1b", 1, [(0,), (1,), (2,)]),
        ("zero_bubble", 1, [(0,), (1,), (2,)]),
        ("interleaved", 2, [(0, 3), (1, 4), (2, 5)]),
        ("zero_bubble", 3, [(0, 3, 6), (1, 4, 7), (2, 5, 8)]),
        ("zero_bubble", 2, [(0, 5), (1, 4), (2, 3)]),  # a V: the ends meet in the first process
    ],
)
def test_stages_are_dealt_in_rounds_or_laid_as_a_v(
    name: ScheduleName, virtual: int, wanted: list[tuple[int, ...]]
) -> None:
    assert numbers(name, virtual, 3) == wanted

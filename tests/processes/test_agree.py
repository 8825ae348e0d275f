"""Failures and decisions that all processes must share."""

import torch.distributed as dist

from hanbit.common.errors import CheckpointError, DataError
from hanbit.parallel.agree import from_all, from_first, together
from tests.processes.group import run_in_group


def one_fails() -> str:
    try:
        with together(DataError):
            if dist.get_rank() == 1:
                raise OSError("the disk of rank one is gone")
    except DataError as problem:
        return str(problem)
    return "no error"


def test_failure_of_one_process_is_heard_by_all_with_its_rank() -> None:
    assert run_in_group(3, one_fails) == ["rank 1: the disk of rank one is gone"] * 3


def who_speaks() -> list[bool]:
    """Ranks 1 and 2 fail, then all do."""
    silent = []
    for fails in (dist.get_rank() > 0, True):
        try:
            with together(DataError):
                if fails:
                    raise DataError("no such file")
        except DataError as problem:
            silent.append(problem.is_told_by_another)
    return silent


def test_only_the_first_that_failed_says_it() -> None:
    assert run_in_group(3, who_speaks) == [[True, False], [False, True], [True, True]]


def own_error_stays() -> list[str]:
    heard = []
    try:
        with together(CheckpointError):
            raise DataError(f"rank {dist.get_rank()} has its own words")
    except DataError as problem:
        heard.append(str(problem))
    return heard


def test_error_for_users_keeps_its_own_class_and_words() -> None:
    assert run_in_group(2, own_error_stays) == [["rank 0 has its own words"], ["rank 1 has its own words"]]


def values() -> tuple[int, list[int]]:
    rank = dist.get_rank()
    return from_first(41 + rank), from_all(rank)


def test_first_ones_value_and_everyones_values() -> None:
    assert run_in_group(2, values) == [(41, [0, 1]), (41, [0, 1])]


def test_alone_nothing_needs_a_group() -> None:
    assert from_first(3) == 3
    assert from_all("x") == ["x"]

"""Decisions that all processes must take alike, and failures that all must hear of.

One process that fails alone would leave the others waiting in a collective. `together` runs a piece of work
everywhere and raises everywhere if it failed anywhere, naming the first rank that failed, which says it to people.
"""

import contextlib
from collections.abc import Iterator
from typing import TypeVar

import torch.distributed as dist

from hanbit.common.errors import HanbitError

Value = TypeVar("Value")


def from_first(value: Value | None) -> Value:
    """Rank 0's value, on every process. Values are plain Python data."""
    if dist.is_initialized():
        box = [value]
        dist.broadcast_object_list(box, src=0)
        value = box[0]
    return value  # type: ignore[return-value]


def from_all(value: Value) -> list[Value]:
    """Every process's value, in the order of ranks."""
    if not dist.is_initialized():
        return [value]
    values: list[Value] = [value] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def to_first(value: Value) -> list[Value] | None:
    """Every process's value, in the order of ranks, on rank 0; None on the others."""
    if not dist.is_initialized():
        return [value]
    values: list[Value] | None = [value] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(value, values, dst=0)
    return values


@contextlib.contextmanager
def together(error: type[HanbitError]) -> Iterator[None]:
    """Run the block on every process; if it raises on any, raise `error` on all once every one has ended it."""
    problem: Exception | None = None
    try:
        yield
    except Exception as caught:
        problem = caught
    messages = from_all(None if problem is None else f"{problem}")
    failed = [rank for rank, message in enumerate(messages) if message is not None]
    if not failed:
        return
    if isinstance(problem, HanbitError):
        raise told_by(failed[0], problem)
    where = f"rank {failed[0]}: " if len(messages) > 1 else ""
    raise told_by(failed[0], error(f"{where}{messages[failed[0]]}")) from problem


def told_by(rank: int, problem: HanbitError) -> HanbitError:
    """An error that all processes raise: only that rank is to say it to people."""
    problem.is_told_by_another = dist.is_initialized() and dist.get_rank() != rank
    return problem

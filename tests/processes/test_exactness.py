"""Parallel training equals one process; without any single collective it does not. One group of processes per size."""

import pytest

from hanbit.bench.exactness import Row, prove
from hanbit.bench.exactness_cases import CASES, NEEDED_BY, Case
from hanbit.parallel.collectives import Purpose


def name_of(case: Case) -> str:
    return f"{case.name}, {case.model}"


@pytest.fixture(scope="module")
def rows() -> dict[tuple[str, Purpose | None], Row]:
    return {(name_of(row.case), row.without): row for row in prove()}


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_layout_equals_one_process(case: Case, rows: dict[tuple[str, Purpose | None], Row]) -> None:
    row = rows[name_of(case), None]
    assert row.loss_fall >= 0.2
    assert row.loss_error <= 1e-5
    assert row.gradient_error <= 1e-5


@pytest.mark.parametrize("purpose", list(Purpose))
def test_leaving_out_one_collective_is_noticed(purpose: Purpose, rows: dict[tuple[str, Purpose | None], Row]) -> None:
    row = rows[name_of(NEEDED_BY[purpose]), purpose]
    assert not row.is_equal
    assert max(row.loss_error, row.gradient_error) > 1e-4, "a difference that rounding could make proves nothing"

"""What a dry run says of memory is what real processes hold: tensors counted by a hook while they train."""

import pytest

from hanbit.bench.memory import CASES, Row, compare


@pytest.fixture(scope="module")
def rows() -> dict[str, Row]:
    return {row.case.name: row for row in compare([case for case in CASES if case.processes <= 2])}


@pytest.mark.parametrize("name", [case.name for case in CASES if case.processes <= 2])
def test_bytes_of_every_rank_are_foretold_within_a_twentieth(name: str, rows: dict[str, Row]) -> None:
    assert rows[name].measured > 1_000_000
    assert rows[name].error <= 0.05

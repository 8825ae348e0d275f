"""What a dry run says of memory is what real processes hold: tensors counted by a hook while they train.

Always: weights whole, sharded and in stages, in at most two processes. In continuous integration a layout of each
family, too, all others with the slow tests.
"""

import pytest

from hanbit.bench.exactness_cases import Case
from hanbit.bench.memory import CASES, Row, compare

ALWAYS = {
    ("one process, bf16", "bert"),
    ("data 2, parameters sharded", "llama tied"),
    ("pipeline 2, interleaved", "llama tied"),
}
OF_FAMILIES = {("one process", "mixture"), ("expert 2", "mixture"), ("pipeline 2, recompute", "t5")}
CHOSEN = tuple(case for case in CASES if (case.name, case.model) in ALWAYS)
PROVEN = tuple(case for case in CASES if (case.name, case.model) in OF_FAMILIES)
OTHERS = tuple(case for case in CASES if case not in (*CHOSEN, *PROVEN))


def name_of(case: Case) -> str:
    return f"{case.name}, {case.model}"


@pytest.fixture(scope="module")
def rows() -> dict[str, Row]:
    return {name_of(row.case): row for row in compare(CHOSEN)}


@pytest.fixture(scope="module")
def rows_of_families() -> dict[str, Row]:
    return {name_of(row.case): row for row in compare(PROVEN)}


@pytest.fixture(scope="module")
def rows_of_others() -> dict[str, Row]:
    return {name_of(row.case): row for row in compare(OTHERS)}


def test_those_chosen_are_cases() -> None:
    assert len(CHOSEN) == len(ALWAYS)
    assert len(PROVEN) == len(OF_FAMILIES)


@pytest.mark.parametrize("case", CHOSEN, ids=name_of)
def test_bytes_of_every_rank_are_foretold_within_a_twentieth(case: Case, rows: dict[str, Row]) -> None:
    check(rows[name_of(case)])


@pytest.mark.proof
@pytest.mark.parametrize("case", PROVEN, ids=name_of)
def test_so_are_those_of_each_family(case: Case, rows_of_families: dict[str, Row]) -> None:
    check(rows_of_families[name_of(case)])


@pytest.mark.slow
@pytest.mark.parametrize("case", OTHERS, ids=name_of)
def test_so_are_those_of_all_other_layouts(case: Case, rows_of_others: dict[str, Row]) -> None:
    check(rows_of_others[name_of(case)])


def check(row: Row) -> None:
    assert row.measured > 1_000_000
    assert row.error <= 0.05

"""Parallel training equals one process; without any single collective it does not. One group of processes per size.

Of the layouts, those that have every switch, and every family cut in every way, run always; those that have every pair
of switches in continuous integration, too; all others with the slow tests.
"""

import itertools
from collections.abc import Callable, Iterable

import pytest

from hanbit.bench.exactness import Row, prove
from hanbit.bench.exactness_cases import CASES, MODELS, NEEDED_BY, RELATIVES, Case
from hanbit.parallel.collectives import Purpose


def name_of(case: Case) -> str:
    return f"{case.name}, {case.model}"


Covered = Callable[[Case], set[object]]  # what a case is chosen for


def covering(cases: tuple[Case, ...], covered: Covered, chosen: Iterable[Case] = ()) -> tuple[Case, ...]:
    """As few cases as cover all that occurs in `cases`, those in `chosen` among them.

    Greedy: the case with most that is still missing comes next; of equals the one with fewest processes.
    """
    missing, chosen = {one for case in cases for one in covered(case)}, list(chosen)
    missing -= {one for case in chosen for one in covered(case)}
    while missing:
        best = max(cases, key=lambda case: (len(covered(case) & missing), -case.processes))
        chosen.append(best)
        missing -= covered(best)
    return tuple(case for case in cases if case in chosen)


def _settings(case: Case) -> list[str]:
    return [f"{section}.{key}={value}" for section, keys in case.settings.items() for key, value in keys.items()]


def _is_cut(setting: str) -> bool:
    return setting.partition("=")[0] in ("parallel.tensor", "parallel.pipeline")


def _switches(case: Case) -> set[object]:
    """What is on in a case, its family, and by what that is cut."""
    family = MODELS[case.model]["family"]
    settings = _settings(case)
    return {*settings, family, *((setting.partition("=")[0], family) for setting in settings if _is_cut(setting))}


def _pairs(case: Case) -> set[object]:
    """Of the switches that are on in a case; its family is one of them.

    A relative of another family has other blocks in the same trunk: beside what cuts blocks and layers it counts as
    itself, beside all else one relative stands for all.
    """
    settings = _settings(case)
    family = MODELS[case.model]["family"]
    general = "a relative" if family in RELATIVES else family
    names = {(setting, family if _is_cut(setting) else general) for setting in settings}
    return {*itertools.combinations(sorted(settings), 2), *names}


CHOSEN = covering(CASES, _switches, NEEDED_BY.values())
PAIRS = tuple(case for case in covering(CASES, _pairs, CHOSEN) if case not in CHOSEN)
OTHERS = tuple(case for case in CASES if case not in (*CHOSEN, *PAIRS))


@pytest.fixture(scope="module")
def rows() -> dict[tuple[str, Purpose | None], Row]:
    return {(name_of(row.case), row.without): row for row in prove(CHOSEN)}


@pytest.fixture(scope="module")
def rows_of_pairs() -> dict[tuple[str, Purpose | None], Row]:
    return {(name_of(row.case), row.without): row for row in prove(PAIRS, ())}


@pytest.fixture(scope="module")
def rows_of_others() -> dict[tuple[str, Purpose | None], Row]:
    return {(name_of(row.case), row.without): row for row in prove(OTHERS, ())}


def check(row: Row) -> None:
    assert row.loss_fall >= 0.2
    assert row.loss_error <= 1e-5
    assert row.gradient_error <= 1e-5


@pytest.mark.parametrize("case", CHOSEN, ids=name_of)
def test_layout_equals_one_process(case: Case, rows: dict[tuple[str, Purpose | None], Row]) -> None:
    check(rows[name_of(case), None])


@pytest.mark.proof
@pytest.mark.parametrize("case", PAIRS, ids=name_of)
def test_layout_with_another_pair_of_switches_equals_one_process(
    case: Case, rows_of_pairs: dict[tuple[str, Purpose | None], Row]
) -> None:
    check(rows_of_pairs[name_of(case), None])


@pytest.mark.slow
@pytest.mark.parametrize("case", OTHERS, ids=name_of)
def test_other_layout_equals_one_process(case: Case, rows_of_others: dict[tuple[str, Purpose | None], Row]) -> None:
    check(rows_of_others[name_of(case), None])


def test_chosen_layouts_have_every_axis_of_the_grid_and_every_family() -> None:
    axes = {key for case in CHOSEN for key in case.settings.get("parallel", {})}
    assert axes == {key for case in CASES for key in case.settings.get("parallel", {})}
    assert {MODELS[case.model]["family"] for case in CHOSEN} == {MODELS[case.model]["family"] for case in CASES}


@pytest.mark.parametrize("purpose", list(Purpose))
def test_leaving_out_one_collective_is_noticed(purpose: Purpose, rows: dict[tuple[str, Purpose | None], Row]) -> None:
    row = rows[name_of(NEEDED_BY[purpose]), purpose]
    assert not row.is_equal
    assert max(row.loss_error, row.gradient_error) > 1e-4, "a difference that rounding could make proves nothing"

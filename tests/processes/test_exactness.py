"""Parallel training equals one process; without any single collective it does not. One group of processes per size.

Of the layouts, those that have every pair of switches run always, all others with the slow tests.
"""

import itertools

import pytest

from hanbit.bench.exactness import Row, prove
from hanbit.bench.exactness_cases import CASES, MODELS, NEEDED_BY, RELATIVES, Case
from hanbit.parallel.collectives import Purpose


def name_of(case: Case) -> str:
    return f"{case.name}, {case.model}"


def covering(cases: tuple[Case, ...]) -> tuple[Case, ...]:
    """As few cases as have every pair of switches (a family, a value of a setting) that occurs in `cases`.

    Greedy: the case with most pairs that are still missing comes next; of equals the one with fewest processes.
    """
    missing = {pair for case in cases for pair in _pairs(case)}
    chosen: list[Case] = []
    while missing:
        best = max(cases, key=lambda case: (len(_pairs(case) & missing), -case.processes))
        chosen.append(best)
        missing -= _pairs(best)
    return tuple(case for case in cases if case in chosen)


def _pairs(case: Case) -> set[tuple[str, str]]:
    """Of the switches that are on in a case; its family is one of them.

    A relative of another family has other blocks in the same trunk: beside what cuts blocks and layers it counts as
    itself, beside all else one relative stands for all.
    """
    settings = [f"{section}.{key}={value}" for section, keys in case.settings.items() for key, value in keys.items()]
    family = MODELS[case.model]["family"]
    general = "a relative" if family in RELATIVES else family
    cuts = {"parallel.tensor", "parallel.pipeline"}
    names = {setting: family if setting.partition("=")[0] in cuts else general for setting in settings}
    return {*itertools.combinations(sorted(settings), 2), *names.items()}


CHOSEN = covering(CASES)
OTHERS = tuple(case for case in CASES if case not in CHOSEN)


@pytest.fixture(scope="module")
def rows() -> dict[tuple[str, Purpose | None], Row]:
    return {(name_of(row.case), row.without): row for row in prove(CHOSEN)}


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


@pytest.mark.slow
@pytest.mark.parametrize("case", OTHERS, ids=name_of)
def test_other_layout_equals_one_process(case: Case, rows_of_others: dict[tuple[str, Purpose | None], Row]) -> None:
    check(rows_of_others[name_of(case), None])


def test_chosen_layouts_have_every_axis_of_the_grid_and_every_family() -> None:
    axes = {key for case in CHOSEN for key in case.settings.get("parallel", {})}
    assert axes == {key for case in CASES for key in case.settings.get("parallel", {})}
    assert {case.model for case in CHOSEN} >= {"llama", "gpt", "mixture", "bert"}


@pytest.mark.parametrize("purpose", list(Purpose))
def test_leaving_out_one_collective_is_noticed(purpose: Purpose, rows: dict[tuple[str, Purpose | None], Row]) -> None:
    row = rows[name_of(NEEDED_BY[purpose]), purpose]
    assert not row.is_equal
    assert max(row.loss_error, row.gradient_error) > 1e-4, "a difference that rounding could make proves nothing"

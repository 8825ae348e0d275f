"""Both ways answer alike, each work has a ratio and what was guessed, and the time is kept."""

from pathlib import Path

import pytest

from hanbit.bench.speculation import Measured, Plan, measure, table
from hanbit.engine.drafts import SpeculationCounts
from hanbit.engine.speculation import Speculation
from tests.engine.folders import write_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("speculation")
    write_folder(path, "gpt2")  # a context that holds a passage, its beginning again, and an answer
    return path


@pytest.mark.parametrize("method", ["prompt_lookup", "draft"])
def test_each_work_has_a_ratio_of_the_same_tokens(folder: Path, method: str) -> None:
    draft = folder if method == "draft" else None
    plan = Plan(
        folder, Speculation(method, prompt_lookup_min=1, draft_model=draft), new_tokens=10, again_tokens=4, rounds=2
    )
    works = measure(plan, pytest.fail)
    for work, row in zip(works, table(works, 10), strict=True):
        assert len(work.ratios) == 2
        assert 0 < row["lowest"] <= row["over_plain"] <= row["highest"]  # type: ignore[operator]
    if method == "draft":  # a model that guesses for itself
        assert works[0].counts.accepted_tokens == works[0].counts.draft_tokens > 0


def test_no_round_is_begun_when_the_time_is_up(folder: Path) -> None:
    said: list[str] = []
    works = measure(
        Plan(folder, Speculation("prompt_lookup"), new_tokens=4, again_tokens=4, rounds=5, seconds=0.0), said.append
    )
    assert [len(work.ratios) for work in works] == [1, 1]
    assert said == ["0 s are up after 1 rounds of 5"]


def test_the_table_has_medians_and_both_ends() -> None:
    work = Measured("a work", [4.0, 6.0, 9.0], [2.0, 2.0, 9.0], SpeculationCounts(5, 20, 15))
    (row,) = table([work], 13)
    assert (row["plain_tokens_per_second"], row["tokens_per_second"]) == (2.0, 6.0)
    assert (row["over_plain"], row["lowest"], row["highest"], row["right_percent"]) == (2.0, 1.0, 3.0, 75.0)

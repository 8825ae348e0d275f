"""Both ways answer alike, each work has a ratio and what was guessed, and the time is kept."""

from pathlib import Path

import pytest

from hanbit.bench.speculation import Measured, Plan, measure, table
from hanbit.checkpoint.model_folder import read_config
from hanbit.common.errors import ConfigError
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


def test_what_gives_no_times_is_refused_before_the_model_is_read(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hanbit.bench.speculation.LLM", lambda *_, **__: pytest.fail("the model is read"))

    def refused(message: str, speculation: Speculation | str = "prompt_lookup", **changes: int) -> None:
        guessed_by = Speculation(speculation) if isinstance(speculation, str) else speculation
        with pytest.raises(ConfigError, match=message):
            measure(Plan(folder, guessed_by, **changes), pytest.fail)

    refused("--rounds 0 must be at least 1", rounds=0)
    refused("--new-tokens 1 must be at least 2", new_tokens=1)
    refused("--new-tokens 0 must be at least 2", new_tokens=0)
    refused("--speculation none guesses nothing", "none")
    context = read_config(folder).context
    most = (context - 8) // 2
    refused(f"holds {context}. Use --new-tokens {most} at most", new_tokens=most + 1, again_tokens=4)
    refused(r"Take a model of a longer one", again_tokens=context)
    refused(r"--rounds 1000000 of --new-tokens 2 take a text of \d+ tokens", new_tokens=2, again_tokens=2, rounds=10**6)
    with pytest.raises(pytest.fail.Exception, match="the model is read"):  # the longest that fits
        measure(Plan(folder, Speculation("prompt_lookup"), new_tokens=most, again_tokens=4, rounds=2), pytest.fail)


def test_the_table_has_medians_and_both_ends() -> None:
    work = Measured("a work", [4.0, 6.0, 9.0], [2.0, 2.0, 9.0], SpeculationCounts(5, 20, 15))
    (row,) = table([work], 13)
    assert (row["plain_tokens_per_second"], row["tokens_per_second"]) == (2.0, 6.0)
    assert (row["over_plain"], row["lowest"], row["highest"], row["right_percent"]) == (2.0, 1.0, 3.0, 75.0)

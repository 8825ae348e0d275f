"""A traced run's file as Perfetto reads it, and against what metrics.jsonl says of the same step."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from hanbit.common.errors import ConfigError
from hanbit.parallel.clock import Phase, Span
from hanbit.train.metrics import read_metrics
from hanbit.train.run import train
from hanbit.train.trace import Recording, text_of
from tests.train.recipes import tiny_run
from tests.train.traces import check_format, complete, own_seconds, step_of


def traced(folder: Path, *settings: str) -> tuple[list[list[dict[str, Any]]], list[dict[str, Any]]]:
    """The events of every file by step, and the rows of the steps."""
    result = train("llama/base", [*tiny_run(folder), "training.steps=4", *settings])
    files = sorted(result.folder.trace.glob("*"))
    rows = [row for row in read_metrics(result.folder.metrics) if "loss" in row]
    return [json.loads(path.read_text())["traceEvents"] for path in files], rows


def test_a_traced_step_has_the_phases_of_its_metrics(tmp_path: Path) -> None:
    files, rows = traced(tmp_path, "logging.trace.steps=[2,4]")
    assert sorted(path.name for path in (tmp_path / "tiny/trace").iterdir()) == ["step-000002.json", "step-000004.json"]
    for events, row in zip(files, (rows[1], rows[3]), strict=True):
        check_format(events)
        step = step_of(events, rank=0)
        assert step["dur"] == pytest.approx(row["step_seconds"] * 1e6, rel=0.05, abs=500)
        seconds = own_seconds(events, step)
        for phase in Phase:
            if phase is not Phase.OTHER:
                assert seconds.get(phase, 0.0) == pytest.approx(row[f"{phase}_seconds"], abs=1e-6)


def test_every_micro_batch_goes_forward_and_backward_and_what_is_due_comes_after_the_step(tmp_path: Path) -> None:
    ((*events,),), _ = traced(tmp_path, "logging.trace.steps=[4]")
    step = step_of(events, rank=0)
    passes = [(e["name"], e["args"]["micro_batch"]) for e in complete(events) if "micro_batch" in e["args"]]
    assert passes == [(name, index) for index in range(4) for name in ("forward", "backward")]  # 8 sequences by 2
    after = [event["name"] for event in complete(events) if event["ts"] >= step["ts"] + step["dur"]]
    assert after == ["validation", "checkpoint"]
    lanes = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert Counter(lanes[event["tid"]] for event in complete(events))["stage 0"] == 8


def test_without_chosen_steps_nothing_is_recorded_or_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hanbit.parallel.clock.StepClock.record", lambda *_: pytest.fail("recorded"))
    assert traced(tmp_path)[0] == []
    assert not (tmp_path / "tiny/trace").exists()


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("logging.trace.steps=[2,40]", r"logging.trace.steps has 40, but training.steps=4 .*Use steps from 1 to 4"),
        ("logging.trace.steps=[]", "a list of at least 1"),
        ("logging.trace={steps: [1], ranks: [1]}", r"logging.trace.ranks has 1, but the last of 1 ranks is 0"),
    ],
)
def test_steps_and_ranks_that_do_not_come_are_refused(tmp_path: Path, setting: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        traced(tmp_path, setting)


def test_ranks_stand_under_one_another_on_one_clock() -> None:
    spans = [Span(Phase.OTHER, "step", 0.5, 0.25, {}), Span(Phase.COMMUNICATION, "a", 0.5, 0.125, {"bytes": 8})]
    late = Recording(1, "tensor 1", 1000.25, spans[:1])
    events = json.loads(text_of([Recording(0, "", 1000.0, spans), late]))["traceEvents"]
    check_format(events)
    assert [(event["pid"], event["ts"], event["dur"]) for event in complete(events)] == [
        (0, 500_000, 250_000), (0, 500_000, 125_000), (1, 750_000, 250_000),
    ]  # fmt: skip
    names = [event["args"]["name"] for event in events if event["name"] == "process_name"]
    assert names == ["rank 0", "rank 1 (tensor 1)"]


def test_a_disk_that_is_full_costs_the_picture_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hanbit.train.trace.write_text", full)
    assert len(traced(tmp_path, "logging.trace.steps=[1]")[1]) == 4
    assert "no trace of step 1" in caplog.text

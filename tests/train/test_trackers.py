"""Dashboards: real ones, read back from their own files, and broken ones, which a run must not notice."""

import importlib.util
import json
import logging
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hanbit.common.atomic import write_json
from hanbit.common.errors import ConfigError
from hanbit.common.run_folder import RunFolder
from hanbit.config.load import load_recipe
from hanbit.train.metrics import board_numbers, read_metrics
from hanbit.train.run import train
from hanbit.train.trackers import Tracker, close_trackers, start_trackers
from tests.train.recipes import tiny_run

NUMBERS = {"train/loss": 2.0}


class Board:
    """Takes rows until the one that it fails at; waits for `go` before each."""

    id = "board-1"

    def __init__(self, fails_at: int | None = None) -> None:
        self.fails_at, self.go = fails_at, threading.Event()
        self.steps: list[int] = []
        self.is_closed = False

    def write(self, numbers: dict[str, float], step: int) -> None:
        assert self.go.wait(20)
        if step == self.fails_at:
            raise ConnectionError("server is gone")
        self.steps.append(step)

    def close(self) -> None:
        self.is_closed = True


def runs_of_a_resumed_training(folder: Path, *settings: str) -> Iterator[RunFolder]:
    """The run folder after 4 steps, and after 4 more by the same command."""
    for steps in (4, 8):
        yield train("llama/base", [*tiny_run(folder), *settings, f"training.steps={steps}",
                                   "checkpoint.export=false"]).folder  # fmt: skip


def losses_of(folder: RunFolder) -> dict[int, float]:
    return {row["step"]: row["loss"] for row in read_metrics(folder.metrics) if "loss" in row}


def wandb_records(path: Path) -> list[Any]:
    """W&B's offline file: a LevelDB log (blocks of 32 KiB; checksum, size, kind, then the bytes) behind 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    data, at, part, found = path.read_bytes(), 7, b"", []
    while at < len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, size, kind = struct.unpack_from("<IHB", data, at)
        part += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last of several
            found.append(wandb_internal_pb2.Record.FromString(part))
            part = b""
    return found


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="needs hanbit[wandb]")
def test_wandb_has_every_loss_under_one_id_though_the_run_was_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    *_, folder = runs_of_a_resumed_training(tmp_path, "logging.wandb.project=tests")
    files = sorted(folder.path.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime)
    records = [record for path in files for record in wandb_records(path)]
    runs = {(record.run.project, record.run.display_name, record.run.run_id) for record in records
            if record.WhichOneof("record_type") == "run"}  # fmt: skip
    assert runs == {("tests", "tiny", json.loads(folder.trackers.read_text())["wandb"])}
    found = {}
    for record in records:
        if record.WhichOneof("record_type") == "history":
            row = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
            if "train/loss" in row:
                found[row["_step"]] = row["train/loss"]
    assert found == losses_of(folder)
    assert list(found) == list(range(1, 9))


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="needs hanbit[mlflow]")
def test_mlflow_has_every_loss_and_the_recipe_in_one_run_though_it_was_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a database needs more than the small package
    store = tmp_path / "store"
    *_, folder = runs_of_a_resumed_training(
        tmp_path, "logging.mlflow.experiment=tests", f"logging.mlflow.tracking_uri={store.as_uri()}"
    )
    (run,) = (path.parent for path in store.glob("*/*/metrics"))
    assert run.name == json.loads(folder.trackers.read_text())["mlflow"]
    lines = [line.split() for line in (run / "metrics/train/loss").read_text().splitlines()]  # time, value, step
    assert {int(step): float(value) for _, value, step in lines} == losses_of(folder)
    assert (run / "params/model.hidden").read_text() == "32"
    assert "status: 3" in (run / "meta.yaml").read_text()  # FINISHED


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="needs hanbit[wandb]")
def test_wandb_without_a_key_asks_nobody_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import wandb

    wandb.teardown()  # its settings are read once in a process
    monkeypatch.setattr("wandb.sdk.lib.wbauth.prompt.prompt_and_save_api_key", lambda *_, **__: pytest.fail("asked"))
    for name, value in (("HOME", str(tmp_path)), ("NETRC", str(tmp_path / "netrc")), ("WANDB_MODE", "online")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    (folder,) = list(runs_of_a_resumed_training(tmp_path, "logging.wandb.project=tests"))[-1:]
    wandb.teardown()
    assert len(losses_of(folder)) == 8
    assert "logging.wandb: no key. Set WANDB_API_KEY" in caplog.text


def test_one_that_fails_in_mid_run_is_warned_about_once_and_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    board = Board(fails_at=3)
    board.go.set()
    tracker = Tracker("wandb", lambda: board)
    for step in range(1, 7):
        tracker.write(NUMBERS, step)
    close_trackers([tracker])
    tracker.write(NUMBERS, 7)
    assert board.steps == [1, 2]
    assert [record.message for record in caplog.records if record.levelno == logging.WARNING] == [
        "logging.wandb: server is gone. The run goes on without it; metrics.jsonl has all"
    ]


def test_one_that_cannot_start_does_not_stop_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unreachable(*_: Any) -> Board:
        raise TimeoutError("no answer in 60 s")

    monkeypatch.setattr("hanbit.train.trackers.start_tensorboard", unreachable)
    result = train("llama/base", [*tiny_run(tmp_path), "training.steps=4", "logging.tensorboard=true"])
    assert result.is_finished
    assert list(losses_of(result.folder)) == [1, 2, 3, 4]
    assert "logging.tensorboard: no answer in 60 s" in caplog.text


def test_two_that_start_at_the_same_moment_are_both_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow_for_the_first(path: Path, ids: dict[str, str]) -> None:
        found = dict(ids)
        if len(found) == 1:
            time.sleep(0.2)
        write_json(path, found)

    boards = [Board(), Board()]
    monkeypatch.setattr("hanbit.train.trackers.write_json", slow_for_the_first)
    monkeypatch.setattr("hanbit.train.trackers.start_wandb", lambda *_: boards[0])
    monkeypatch.setattr("hanbit.train.trackers.start_mlflow", lambda *_: boards[1])
    logging_of_both = ["logging.wandb.project=p", "logging.mlflow={experiment: e, tracking_uri: x}"]
    recipe = load_recipe("llama/base", [*tiny_run(tmp_path), *logging_of_both]).recipe
    close_trackers(start_trackers(recipe, RunFolder(tmp_path), 0))
    assert json.loads(RunFolder(tmp_path).trackers.read_text()) == {"wandb": "board-1", "mlflow": "board-1"}


def test_one_that_hangs_holds_nobody_up(caplog: pytest.LogCaptureFixture) -> None:
    board = Board()
    tracker = Tracker("mlflow", lambda: board)
    began = time.monotonic()
    for step in range(1, 1001):
        tracker.write(NUMBERS, step)
    close_trackers([tracker], patience_seconds=0.2)
    assert time.monotonic() - began < 10  # not the 20 s that the board would wait
    assert "logging.mlflow has not taken its last numbers" in caplog.text
    board.go.set()


def test_what_was_on_its_way_arrives_before_the_end_and_the_id_is_told() -> None:
    board, ids = Board(), list[str]()
    tracker = Tracker("mlflow", lambda: board, ids.append)
    for step in (1, 2, 3):
        tracker.write(NUMBERS, step)
    threading.Timer(0.1, board.go.set).start()
    close_trackers([tracker])
    assert (board.steps, board.is_closed, ids) == ([1, 2, 3], True, ["board-1"])


@pytest.mark.parametrize(
    ("missing", "setting", "words"),
    [
        ("wandb", "logging.wandb.project=p", r'logging\.wandb needs the extra: pip install "hanbit\[wandb\]"'),
        ("mlflow", "logging.mlflow={experiment: e, tracking_uri: x}", r'pip install "hanbit\[mlflow\]"'),
        ("tensorboard", "logging.tensorboard=true", r'pip install "hanbit\[tensorboard\]"'),
        ("", "logging.mlflow.experiment=e", r"logging\.mlflow\.tracking_uri, or MLFLOW_TRACKING_URI"),
    ],
)
def test_what_is_missing_is_said_before_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str, setting: str, words: str
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else found(name))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ConfigError, match=words):
        train("llama/base", [*tiny_run(tmp_path), setting])
    assert not (tmp_path / "tiny").exists()


def test_a_folder_of_offline_runs_is_not_taken_for_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "offline_runs").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("hanbit.train.trackers.MODULES", {"wandb": "offline_runs"})
    with pytest.raises(ConfigError, match="hanbit\\[wandb\\]"):
        train("llama/base", [*tiny_run(tmp_path), "logging.wandb.project=p"])


def test_numbers_go_under_the_names_that_dashboards_use_and_unknown_ones_are_left_out() -> None:
    row = {"step": 3, "loss": 2.5, "mfu": None, "tokens_per_second": 10, "data_seconds": 0.5, "validation_loss.ko": 3.0}
    assert board_numbers(row) == {
        "train/loss": 2.5, "perf/tokens_per_s": 10.0, "perf/data_seconds": 0.5, "val/loss/ko": 3.0,
    }  # fmt: skip


def test_module_that_cannot_be_imported_is_warned_about_and_starts_no_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "broken_board.py").write_text("raise SystemError('AST constructor recursion depth mismatch')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("hanbit.train.trackers.MODULES", {"tensorboard": "broken_board"})
    recipe = load_recipe("llama/base", [*tiny_run(tmp_path), "logging.tensorboard=true"]).recipe
    with caplog.at_level(logging.WARNING):
        assert start_trackers(recipe, RunFolder(tmp_path / "run"), 0) == []
    assert "logging.tensorboard: AST constructor recursion depth mismatch. The run goes on without it" in caplog.text

"""A run in one process: whole, interrupted, continued, refused."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hanbit.bench.kills import parameters_hash
from hanbit.common.errors import CheckpointError, ConfigError, DataError, HanbitError, RunFolderError, TrainingError
from hanbit.common.manifest import write_manifest
from hanbit.common.run_folder import RunFolder, lock_run_folder
from hanbit.data.megatron import TokenWriter
from hanbit.train import loop
from hanbit.train import run as run_module
from hanbit.train.metrics import read_metrics
from hanbit.train.run import train
from tests.train.recipes import tiny_run


def test_run_learns_and_leaves_everything_in_its_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "hanbit")
    result = train("llama/base", tiny_run(tmp_path))
    assert result.is_finished
    folder = result.folder
    rows = read_metrics(folder.metrics)
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 12
    assert losses[-1] < 0.95 * losses[0]
    assert [row["step"] for row in rows if "validation_loss" in row] == [6, 12]
    assert next(iter(rows[0])) == "step"
    assert (folder.checkpoints / "latest").read_text() == "step-000012\n"
    assert folder.report.exists()
    assert "the run takes 0.16 passes over 593 training sequences" in folder.log_of(0).read_text()
    assert json.loads((folder.path / "hanbit.json").read_text())["kind"] == "run"


def test_resolved_recipe_repeats_the_run_exactly(tmp_path: Path) -> None:
    first = train("llama/base", tiny_run(tmp_path))
    second = train(first.folder.config, ["name=again"])
    assert parameters_hash(first.folder.checkpoints) == parameters_hash(second.folder.checkpoints)


def test_stopped_run_continues_bitwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train("llama/base", tiny_run(tmp_path))

    class StopAtFive(loop.StopRequest):
        asked = 0

        @property
        def signal(self) -> int | None:
            type(self).asked += 1
            return 15 if type(self).asked >= 5 else None

        @signal.setter
        def signal(self, value: int | None) -> None:
            pass

    with monkeypatch.context() as patch:
        patch.setattr("hanbit.train.run.StopRequest", StopAtFive)
        stopped = train("llama/base", [*tiny_run(tmp_path), "name=stopped"])
    assert (stopped.is_finished, stopped.step) == (False, 5)
    continued = train("llama/base", [*tiny_run(tmp_path), "name=stopped"])
    assert continued.is_finished
    assert parameters_hash(continued.folder.checkpoints) == parameters_hash(whole.folder.checkpoints)
    steps = [row["step"] for row in read_metrics(continued.folder.metrics) if "loss" in row]
    assert steps == list(range(1, 13))


def test_asked_again_a_finished_run_does_no_step(tmp_path: Path) -> None:
    first = train("llama/base", tiny_run(tmp_path))
    lines = first.folder.metrics.read_text()
    again = train("llama/base", tiny_run(tmp_path))
    assert again.step == 12
    assert first.folder.metrics.read_text() == lines


@pytest.mark.parametrize("latest", ["step-000008\n", None])
def test_kill_before_latest_moved_exports_the_newest_model_all_the_same(tmp_path: Path, latest: str | None) -> None:
    first = train("llama/base", tiny_run(tmp_path))
    weights, pointer = first.folder.model / "model.safetensors", first.folder.checkpoints / "latest"
    wanted = weights.read_bytes()
    weights.unlink()
    pointer.unlink()
    if latest is not None:
        pointer.write_text(latest)
    assert train("llama/base", tiny_run(tmp_path)).step == 12
    assert weights.read_bytes() == wanted
    assert pointer.read_text() == "step-000012\n"


@pytest.mark.parametrize("switch", ["training.recompute=full", "training.compile=true", "training.precision=bf16"])
def test_switches_train_to_about_the_same_loss(tmp_path: Path, switch: str) -> None:
    plain = train("llama/base", tiny_run(tmp_path))
    switched = train("llama/base", [*tiny_run(tmp_path), "name=switched", switch])
    assert plain.loss is not None
    assert switched.loss == pytest.approx(plain.loss, rel=2e-2 if "bf16" in switch else 1e-5)


@pytest.mark.parametrize(
    ("override", "error", "words"),
    [
        ("data.train=nowhere", DataError, "nowhere"),
        ("model.vocabulary=100", DataError, "model.vocabulary=100"),
        ("batch.sequence_length=128", ConfigError, "model.context=64"),
        ("parallel.tensor=2", ConfigError, "1 process"),
        ("model.rotary_fraction=0.5", ConfigError, r"rotary_fraction=0\.5.*checkpoint\.export=false"),
        ("training.initial_model=nowhere", HanbitError, "nowhere"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_written(
    tmp_path: Path, override: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        train("llama/base", [*tiny_run(tmp_path), override])
    assert not list(tmp_path.glob("tiny/checkpoints/*"))


def test_a_start_from_values_that_are_not_finite_is_refused(tmp_path: Path) -> None:
    start = train("llama/base", [*tiny_run(tmp_path), "training.steps=1", "name=start"]).folder.model
    tensors = load_file(start / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    tensors[name][3, 5] = float("nan")
    save_file(tensors, start / "model.safetensors", {"format": "pt"})
    (start / "hanbit.json").unlink()  # with its manifest it would be refused as damaged
    with pytest.raises(ConfigError, match=r"layers\.0\..*up.* has values that are not finite"):
        train("llama/base", [*tiny_run(tmp_path), f"training.initial_model={start}"])
    assert not list(tmp_path.glob("tiny/checkpoints/*"))


def test_another_models_checkpoint_is_refused_and_kept(tmp_path: Path) -> None:
    first = train("llama/base", tiny_run(tmp_path))
    before = parameters_hash(first.folder.checkpoints)
    recipe = first.folder.config.read_text()
    with pytest.raises(CheckpointError, match=r"model\.hidden=32 \(this recipe: 64\)"):
        train("llama/base", [*tiny_run(tmp_path), "model.hidden=64"])
    with pytest.raises(CheckpointError, match=r"order\.seed"):
        train("llama/base", [*tiny_run(tmp_path), "training.seed=5"])
    assert parameters_hash(first.folder.checkpoints) == before
    assert first.folder.config.read_text() == recipe


def test_a_run_that_has_ended_makes_its_model_again_only_where_it_must(tmp_path: Path) -> None:
    overrides = tiny_run(tmp_path)
    weights = train("llama/base", overrides).folder.model / "model.safetensors"

    def written_by(*more: str) -> bool:
        before = weights.stat().st_mtime_ns
        train("llama/base", [*overrides, *more])
        return weights.stat().st_mtime_ns != before

    content = weights.read_bytes()
    assert not written_by()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert written_by()
    assert weights.read_bytes() == content
    (weights.parent / "config.json").unlink()
    assert written_by()
    assert written_by("training.steps=14")


@pytest.mark.parametrize("has_manifest", [True, False])
def test_another_corpus_of_equal_size_is_refused_on_resume(tmp_path: Path, has_manifest: bool) -> None:
    tokens = np.random.default_rng(5).integers(0, 513, 20_000)
    corpora = {"one": (tokens, [20_000]), "other": (tokens[::-1].copy(), [12_000, 8_000])}
    for name, (row, ends) in corpora.items():
        (tmp_path / name).mkdir()
        with TokenWriter(tmp_path / name / "tokens", 513) as writer:
            for document in np.split(row, np.cumsum(ends)[:-1]):
                writer.add(document)
        if has_manifest:
            write_manifest(tmp_path / name, "tokens", ["tokens.bin", "tokens.idx"])
    train("llama/base", [*tiny_run(tmp_path), f"data.train={tmp_path}/one/tokens"])
    (tmp_path / "one").rename(tmp_path / "moved")
    assert train("llama/base", [*tiny_run(tmp_path), f"data.train={tmp_path}/moved/tokens"]).is_finished
    with pytest.raises(CheckpointError, match=r"order\.tokens="):
        train("llama/base", [*tiny_run(tmp_path), f"data.train={tmp_path}/other/tokens"])


def test_fewer_steps_than_were_taken_are_refused(tmp_path: Path) -> None:
    train("llama/base", tiny_run(tmp_path))
    with pytest.raises(CheckpointError, match=r"step 12, beyond training\.steps=3\. Use training\.steps=12 or more"):
        train("llama/base", [*tiny_run(tmp_path), "training.steps=3"])


def test_tokens_are_counted_over_a_change_of_the_batch(tmp_path: Path) -> None:
    train("llama/base", tiny_run(tmp_path))
    longer = train("llama/base", [*tiny_run(tmp_path), "training.steps=14", "batch.global_batch=16"])
    tokens = [row["tokens"] for row in read_metrics(longer.folder.metrics) if "tokens" in row]
    assert tokens == [32 * (8 * min(step, 12) + 16 * max(0, step - 12)) for step in range(1, 15)]


def test_two_runs_in_one_folder_are_refused_by_name(tmp_path: Path) -> None:
    lock = lock_run_folder(RunFolder(tmp_path / "tiny"))
    with pytest.raises(RunFolderError, match="in use by another run"):
        train("llama/base", tiny_run(tmp_path))
    lock.close()


def test_loss_that_is_no_number_stops_before_the_update(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []

    def poisoned(training: object) -> torch.Tensor:
        steps.append(1)
        return torch.tensor(float("nan") if len(steps) == 6 else 1.0, dtype=torch.float64)

    monkeypatch.setattr(loop, "gradient_norm", poisoned)
    with pytest.raises(TrainingError, match="step 6"):
        train("llama/base", tiny_run(tmp_path))
    assert (tmp_path / "tiny/checkpoints/latest").read_text() == "step-000004\n"


def test_the_report_of_a_run_that_goes_on_is_as_new_as_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    write = run_module.write_report

    def kept(folder: RunFolder) -> None:
        write(folder)
        written.append("time left" in folder.report.read_text())

    monkeypatch.setattr("hanbit.train.run.write_report", kept)
    train("llama/base", tiny_run(tmp_path))  # checkpoints at 4, 8 and 12
    assert written == [True, True, False]


def test_weights_that_are_no_numbers_are_neither_saved_nor_validated(tmp_path: Path) -> None:
    """The update of the fifth step overflows; the checkpoint of the fourth stays and can be continued."""
    settings = [*tiny_run(tmp_path), "checkpoint.every_steps=1", "validation.every_steps=1"]
    train("llama/base", [*settings, "training.steps=4"])
    wild = ["optimizer.learning_rate=1e200", "optimizer.warmup_steps=0", "training.steps=6"]
    with pytest.raises(
        TrainingError, match=r"step 5: its update left weights that are not finite .* nothing was saved"
    ):
        train("llama/base", [*settings, *wild])
    assert (tmp_path / "tiny/checkpoints/latest").read_text() == "step-000004\n"
    rows = read_metrics(tmp_path / "tiny/metrics.jsonl")
    assert [row["step"] for row in rows if "validation_loss" in row] == [1, 2, 3, 4]
    assert train("llama/base", [*settings, "training.steps=6"]).is_finished


def test_a_validation_loss_that_is_no_number_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "validation_losses", lambda training: {"": 1.0, "law": float("nan")})
    with pytest.raises(TrainingError, match="step 6: the validation loss on law is nan"):
        train("llama/base", tiny_run(tmp_path))
    assert (tmp_path / "tiny/checkpoints/latest").read_text() == "step-000004\n"

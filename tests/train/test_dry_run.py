"""A dry run against numbers computed by hand and a run that was; it leaves no trace."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from hanbit.bench.exactness_cases import RELATIVES
from hanbit.bench.memory_worker import peak_of
from hanbit.cli.main import load_verb
from hanbit.common.errors import ConfigError, DataError, ModelError
from hanbit.train.dry_run import dry_run
from hanbit.train.dry_run_text import told
from hanbit.train.live_tensors import Part
from hanbit.train.run import build, train
from hanbit.train.setup import grid_of
from tests.train.recipes import tiny_run
from tests.tuning.runs import tuning_recipe

LAYOUT = ["parallel.tensor=2", "parallel.pipeline=2", "parallel.data=2", "batch.global_batch=16", "parallel.shard=3"]


@pytest.fixture(autouse=True)
def lone_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)


def test_eight_processes_are_looked_at_on_one_and_nothing_is_touched(tmp_path: Path) -> None:
    overrides = [*tiny_run(tmp_path), *LAYOUT, "training.device=cuda", "training.compile=true"]
    before = sorted(tmp_path.rglob("*"))
    found = dry_run("llama/base", overrides)
    assert sorted(tmp_path.rglob("*")) == before
    assert not torch.distributed.is_initialized()
    layer = 2 * 32 + (2 * 32 * 32 + 2 * 16 * 32 + 3 * 32 * 128) // 2  # norms whole, matrices over two processes
    ends = 257 * 32  # the first of two processes has the odd one of 513 tokens
    assert found.stages == {0: ends + layer, 1: layer + 32 + ends}
    assert (found.processes, found.tokens_per_step, found.steps) == (8, 16 * 32, 12)
    assert (found.train_sequences, found.validation_sequences) == (593, 31)
    assert found.passes == ("the run takes 0.32 passes over 593 training sequences",)


def test_parameters_files_and_checkpoint_are_those_of_the_run(tmp_path: Path) -> None:
    found = dry_run("llama/base", tiny_run(tmp_path))
    assert found.reached is None
    folder = train("llama/base", tiny_run(tmp_path)).folder
    exported = load_file(folder.model / "model.safetensors")
    assert found.parameters == found.trained == sum(tensor.numel() for tensor in exported.values())
    assert sorted(found.files) == sorted(str(path) for path in folder.path.iterdir() if path.name != ".lock")
    pieces = (folder.checkpoints / "step-000012/rank-00000.safetensors").stat().st_size
    assert found.checkpoint_bytes < pieces < found.checkpoint_bytes + 20_000  # the header of the file
    assert dry_run("llama/base", tiny_run(tmp_path)).reached == 12


@pytest.mark.parametrize("family", RELATIVES)
def test_of_each_relative_parameters_and_memory_are_those_of_its_run(tmp_path: Path, family: str) -> None:
    """A layer with a window and one without, where the family has both."""
    (tmp_path / "recipe.yaml").write_text(json.dumps({"model": {"family": family}}))
    windows = ["model.sliding_window=9", "model.full_every=2"] if family in ("gemma", "exaone") else []
    tiny = [one for one in tiny_run(tmp_path) if "key_value" not in one or family in ("gemma", "exaone", "phi3")]
    found = dry_run(tmp_path / "recipe.yaml", [*tiny, *windows, "batch.global_batch=4"])
    training = build(found.recipe, grid_of(found.recipe, torch.device("cpu")))
    parameters = sum(parameter.numel() for parameter in training.model.parameters.values())
    assert found.parameters == found.trained == parameters
    assert found.fullest.total == pytest.approx(peak_of(found.recipe)[0], rel=0.05)


@pytest.mark.parametrize(
    ("override", "error", "words"),
    [
        ("parallel.tensor=3", ConfigError, r"parallel\.tensor=3 does not divide"),
        ("model.rotary_fraction=0.5", ConfigError, r"checkpoint\.export=false"),
        ("model.vocabulary=100", DataError, r"model\.vocabulary=100"),
        ("training.initial_model=nowhere", ModelError, "nowhere"),
    ],
)
def test_what_a_run_would_refuse_is_refused(tmp_path: Path, override: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        dry_run("llama/base", [*tiny_run(tmp_path), override])


def test_a_recipe_whose_data_is_elsewhere_is_looked_at_without_it(tmp_path: Path) -> None:
    found = dry_run("llama/base", [*tiny_run(tmp_path), "data.train=nowhere", "cluster.gpus_per_node=2"])
    assert (found.processes, found.train_sequences, found.tokens_per_step) == (2, None, 8 * 32)
    assert found.passes == ("data.train=nowhere is not here and was not looked at",)
    matrices = 4 * (32 * 32 + 2 * 16 * 32 + 32 * 32 + 3 * 32 * 128) // 4 * 2 + 513 * 32  # two layers and the head
    assert found.flops_per_step == (6 * matrices + 12 * 2 * 32 * 32) * 8 * 32
    assert found.memory[0].parts["weights"] == 4 * found.parameters
    assert "data.train=nowhere is not here" in told(found, as_json=False)


def test_an_initial_model_of_another_shape_is_refused(tmp_path: Path) -> None:
    start = train("llama/base", [*tiny_run(tmp_path), "training.steps=1"]).folder.model
    overrides = [*tiny_run(tmp_path), f"training.initial_model={start}"]
    assert dry_run("llama/base", overrides).parameters
    with pytest.raises(ConfigError, match=r"initial_model=.* is \(513, 32\), the recipe wants \(513, 64\)"):
        dry_run("llama/base", [*overrides, "model.hidden=64"])


def test_the_verb_tells_it_in_words_and_as_json(tmp_path: Path) -> None:
    app, arguments = load_verb("train"), ["llama/base", *tiny_run(tmp_path), *LAYOUT, "--dry-run"]
    printed = CliRunner().invoke(app, arguments).stdout
    for words in (
        "model.head_dim=8: 32 hidden / 4 heads",
        "8 = pipeline 2 x data 2 x tensor 2",
        "16 sequences of 32 tokens: 2 replica(s) x 4 micro-batch(es) x 2",
        "shared out over 2 ranks of data and context (parallel.shard=3)",
        f"{tmp_path}/tiny/config.resolved.yaml",
    ):
        assert words in printed
    facts = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    layout = {"tensor": 2, "pipeline": 2, "data": 2, "shard": 3, "schedule": "1f1b"}
    assert facts["recipe"]["parallel"].items() >= layout.items()
    assert [one["stage"] for one in facts["memory"]] == [0, 1]
    assert all(sum(one[f"{part}_bytes"] for part in Part) == one["total_bytes"] for one in facts["memory"])
    assert not (tmp_path / "tiny").exists()


def test_tuning_is_looked_at_the_same_way(tmp_path: Path) -> None:
    recipe, app = str(tuning_recipe(tmp_path)), load_verb("tune")
    before = sorted(tmp_path.rglob("*"))
    facts = json.loads(CliRunner().invoke(app, [recipe, "parallel.tensor=2", "--dry-run", "--json"]).stdout)
    assert sorted(tmp_path.rglob("*")) == before
    assert 0 < facts["trained_parameters"] < facts["parameters"] / 2
    assert facts["files"][-3].endswith("tuned/adapter")
    refused = CliRunner().invoke(app, ["llama/60m", "--dry-run"]).exception
    assert isinstance(refused, ConfigError)
    assert "no section tuning" in str(refused)


def test_parameters_of_a_tied_model_in_many_parts_are_those_of_one(tmp_path: Path) -> None:
    settings = [*tiny_run(tmp_path), "model.tied=true", "model.layers=4"]
    whole = dry_run("llama/base", settings)
    parts = ["parallel.pipeline=2", "parallel.virtual=2", "parallel.schedule=interleaved"]
    cut = dry_run("llama/base", [*settings, *parts])
    assert (cut.parameters, cut.trained, cut.checkpoint_bytes) == (
        whole.parameters, whole.trained, whole.checkpoint_bytes,
    )  # fmt: skip


def test_fp8_is_looked_at_without_its_library_and_counted_as_bf16(tmp_path: Path) -> None:
    settings = [*tiny_run(tmp_path), "training.device=cuda"]
    found, like = (dry_run("llama/base", [*settings, f"training.precision={one}"]) for one in ("fp8", "bf16"))
    assert found.memory == like.memory
    assert "(training.precision=fp8 taken for bf16)" in told(found, as_json=False)


def test_context_is_among_the_axes(tmp_path: Path) -> None:
    layout = ["parallel.context=2", "parallel.tensor=2", "parallel.pipeline=2", "parallel.shard=2"]
    cluster = ["cluster.nodes=2", "cluster.gpus_per_node=8", "batch.global_batch=16"]
    text = told(dry_run("llama/base", [*tiny_run(tmp_path), *layout, *cluster]), as_json=False)
    assert "16 = pipeline 2 x data 2 x context 2 x tensor 2" in text
    assert "a stage's 8 ranks on one node" in text
    assert "shared out over 4 ranks of data and context" in text

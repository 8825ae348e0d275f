"""`hanbit tune`: a run from recipe to adapter, stopped and continued, its adapter in peft, and what is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from hanbit import LLM, SamplingParams, tune
from hanbit.bench.kills import parameters_hash
from hanbit.checkpoint.load import Reader
from hanbit.checkpoint.model_folder import read_config
from hanbit.common.errors import CheckpointError, ConfigError, DataError, HanbitError
from hanbit.formats.peft import read_adapter
from hanbit.train.metrics import read_metrics
from hanbit.tuning.lora import is_lora
from tests.engine.folders import theirs_of
from tests.tuning.runs import tuning_recipe


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe and its finished run `tuned`."""
    folder = tmp_path_factory.mktemp("tune")
    result = tune(tuning_recipe(folder))
    assert result.is_finished
    return folder


def test_the_loss_falls_and_only_answers_are_counted(done: Path) -> None:
    rows = [row for row in read_metrics(done / "tuned/metrics.jsonl") if "loss" in row]
    assert rows[-1]["loss"] < 0.6 * rows[0]["loss"]
    assert rows[-1]["tokens"] < 6 * 4 * 20, "answers have at most 20 tokens, prompts more"
    assert not (done / "tuned/model").exists()


def test_a_checkpoint_holds_the_adapter_and_its_moments_alone(done: Path) -> None:
    names = list(Reader(done / "tuned/checkpoints/step-000006").index)
    assert len(names) == 3 * 2 * 7 * 3  # parameter and two moments of A and B of 7 layers in 3 blocks
    assert all(is_lora(name) for name in names)


def test_peft_and_the_engine_answer_alike_with_the_adapter_and_the_base_stays(done: Path) -> None:
    prompt = list(range(5, 45, 3))
    llm = LLM(done / "base")
    greedy = SamplingParams(temperature=0.0, max_tokens=8)
    before = llm.generate([prompt], greedy)[0].token_ids
    llm.add_adapter("tuned", done / "tuned/adapter")
    theirs = PeftModel.from_pretrained(theirs_of(done / "base"), done / "tuned/adapter").eval()
    with torch.no_grad():
        likeliest = theirs(torch.tensor([prompt])).logits[0, -1].argmax().item()
    assert llm.generate([prompt], greedy, adapter="tuned")[0].token_ids[0] == likeliest
    assert llm.generate([prompt], greedy)[0].token_ids == before


def test_the_adapter_is_what_was_trained(done: Path) -> None:
    adapter = read_adapter(done / "tuned/adapter", read_config(done / "base"))
    reader = Reader(done / "tuned/checkpoints/step-000006")
    assert (adapter.scale, len(adapter.layers)) == (2.0, 21)
    for name, (a, b) in adapter.layers.items():
        assert torch.equal(a, reader.whole(f"parameter/{name}.lora.a"))
        assert torch.equal(b, reader.whole(f"parameter/{name}.lora.b"))
    facts = json.loads((done / "tuned/adapter/adapter_config.json").read_text())
    assert (facts["r"], facts["lora_alpha"], facts["base_model_name_or_path"]) == (4, 8, str(done / "base"))


def test_a_run_in_two_parts_ends_with_the_same_bits(done: Path) -> None:
    tune(done / "recipe.yaml", ["name=parts", "training.steps=3"])
    tune(done / "recipe.yaml", ["name=parts"])
    assert parameters_hash(done / "parts/checkpoints") == parameters_hash(done / "tuned/checkpoints")


def test_the_resolved_recipe_repeats_the_run(done: Path) -> None:
    tune(done / "tuned/config.resolved.yaml", ["name=again"])
    assert parameters_hash(done / "again/checkpoints") == parameters_hash(done / "tuned/checkpoints")


@pytest.mark.parametrize(
    ("overrides", "error", "words"),
    [
        (["tuning.rank=8"], CheckpointError, r"tuning\.rank=4 \(this recipe: 8\)"),
        (["tuning.targets=[query]"], CheckpointError, r"tuning\.targets='all'"),
        (["data.split=0.5"], CheckpointError, "order.conversations"),
        (["name=x", "training.compile=true"], ConfigError, "not proven"),
        (["name=x", "training.initial_model=y"], ConfigError, "both name a model"),
        (["name=x", "training.steps=auto"], ConfigError, "no fixed number of tokens"),
        (["name=x", "tuning.method=dora"], ConfigError, r"tuning\.method=dora"),
        (["name=x", "tuning.targets=[gates]"], ConfigError, r"tuning\.targets\[0\]=gates"),
        (["name=x", "tuning.model=nowhere"], HanbitError, "nowhere"),
        (["name=x", "model.hidden=32", "model.family=llama"], HanbitError, "model"),
        (["name=x", "data.train=nowhere.jsonl"], DataError, "nowhere.jsonl is not a file"),
        (["name=x", "batch.sequence_length=20"], DataError, r"talk.jsonl:\d+: the conversation has"),
        (["name=x", "batch.sequence_length=128"], ConfigError, "model.context=64"),
    ],
)
def test_what_does_not_fit_is_said_before_the_first_step(
    done: Path, overrides: list[str], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        tune(done / "recipe.yaml", ["name=tuned", *overrides])
    assert not (done / "x/checkpoints").exists()


def test_another_base_is_refused_on_resume(done: Path, tmp_path: Path) -> None:
    other = tuning_recipe(tmp_path, "llama")
    text = other.read_text().replace("runs: ", "name: tuned\n# ").replace("name: tuned\n#", f"runs: {done} #", 1)
    other.write_text(text)
    path = tmp_path / "base/model.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(CheckpointError, match=r"tuning\.base"):
        tune(other)


@pytest.mark.parametrize("switch", ["training.precision=bf16", "training.recompute=full", "batch.micro_batch=4"])
def test_switches_train_to_about_the_same_loss(done: Path, switch: str) -> None:
    switched = tune(done / "recipe.yaml", [f"name={switch.partition('=')[0]}", switch])
    wanted = [row["loss"] for row in read_metrics(done / "tuned/metrics.jsonl") if "loss" in row][-1]
    assert switched.loss == pytest.approx(wanted, rel=2e-2 if "bf16" in switch else 1e-5)


def test_a_recipe_without_tuning_is_for_train() -> None:
    with pytest.raises(ConfigError, match="no section tuning"):
        tune("llama/tiny")


def test_a_run_continues_on_two_processes_and_leaves_the_same_adapter(done: Path) -> None:
    """Rounding differs with the order of sums; AdamW makes up to a step of the learning rate of it."""
    tune(done / "recipe.yaml", ["name=moved", "training.steps=3"])
    command = [sys.executable, "-m", "hanbit", "launch", "--processes", "2", "--log-folder", str(done / "logs")]
    command += ["tune", str(done / "recipe.yaml"), "name=moved", "parallel.tensor=2"]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True)
    config = read_config(done / "base")
    moved, whole = (read_adapter(done / name / "adapter", config).layers for name in ("moved", "tuned"))
    assert set(moved) == set(whole)
    for name, matrices in whole.items():
        for ours, theirs in zip(moved[name], matrices, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    losses = [
        [row["loss"] for row in read_metrics(done / f"{n}/metrics.jsonl") if "loss" in row] for n in ("moved", "tuned")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)

"""A global batch that grows by samples seen: against plain loops, across a stop, over two processes, refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hanbit.bench.kills import parameters_hash
from hanbit.common.errors import ConfigError
from hanbit.config.ramp_up import samples_after, size_at, sizes_of, steps_until
from hanbit.config.recipe import BatchSection, RampUp
from hanbit.data.megatron import TokenWriter
from hanbit.data.samples import open_samples
from hanbit.train.metrics import read_metrics
from hanbit.train.run import train
from tests.engine.folders import theirs_of, write_folder
from tests.pairs.layouts import Measured, all_layouts, assert_same, measured
from tests.processes.group import run_in_group

SIZES = [4, 6, 8, 8, 8]  # by hand: 8 samples hold two growths of 2; 0 of 8, then 4 of 8, then 10
LAYOUTS = {
    "data 2": ["parallel.data=2"],
    "moments sharded": ["parallel.data=2", "parallel.shard=1"],
    "parameters sharded": ["parallel.data=2", "parallel.shard=3"],
    "gradients sharded and offloaded": ["parallel.data=2", "parallel.shard=2", "parallel.offload=true"],
    "tensor 2": ["parallel.tensor=2"],
    "pipeline 2": ["parallel.pipeline=2"],
    "pipeline 2, gpipe": ["parallel.pipeline=2", "parallel.schedule=gpipe"],
    "pipeline 2, zero bubble": ["parallel.pipeline=2", "parallel.schedule=zero_bubble"],
}
OF_PACKED = {"data 2": LAYOUTS["data 2"], "pipeline 2": LAYOUTS["pipeline 2"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ramp")
    (path / "base").mkdir()
    write_folder(path / "base", "llama")
    random = np.random.default_rng(1)
    with TokenWriter(path / "tokens", 97) as writer:
        for _ in range(40):
            writer.add(np.cumsum(random.integers(0, 3, 60)) % 97)
    (path / "recipe.yaml").write_text(
        f"""
name: ramp
runs: {path}
data: {{train: {path / "tokens"}, split: 0.0}}
batch: {{global_batch: 8, micro_batch: 1, sequence_length: 32, ramp_up: {{start: 4, increment: 2, samples: 8}}}}
training: {{steps: 5, device: cpu, initial_model: {path / "base"}}}
optimizer: {{learning_rate: 1e-2, epsilon: 1e-5, warmup_steps: 0, schedule: constant}}
checkpoint: {{every_steps: 9}}
"""
    )
    with TokenWriter(path / "more", 97) as writer:
        for length in random.integers(2, 40, 60):
            writer.add(np.cumsum(random.integers(0, 3, length)) % 97)
    blend = f"[{{path: {path / 'tokens'}, weight: 0.4}}, {{path: {path / 'more'}, weight: 0.6}}]"
    alone = (path / "recipe.yaml").read_text()
    packed = alone.replace(f"train: {path / 'tokens'}", f"train: {blend}, packing: documents")
    (path / "packed.yaml").write_text(packed)
    return path


@pytest.mark.parametrize(("start", "increment", "samples"), [(4, 2, 8), (2, 2, 100), (6, 1, 7), (1, 7, 50)])
def test_sizes_steps_and_samples_are_those_of_a_plain_loop(start: int, increment: int, samples: int) -> None:
    ramp = RampUp(start=start, increment=increment, samples=samples)
    batch = BatchSection(global_batch=8, sequence_length=32, ramp_up=ramp)
    seen, sizes = 0, []
    for step in range(60):
        assert samples_after(batch, step) == seen
        assert steps_until(batch, seen) == step
        assert steps_until(batch, seen + 1) == step + 1
        size = start
        for growth in range(1, (8 - start) // increment + 1):  # each after an equal part of the samples
            if seen >= growth * samples / ((8 - start) // increment):
                size = start + growth * increment
        assert size_at(batch, seen) == size
        sizes.append(size)
        seen += size
    assert sizes[-1] == 8
    assert set(sizes) <= set(sizes_of(batch))


def test_a_run_equals_a_plain_loop_over_growing_batches(folder: Path) -> None:
    result = train(folder / "recipe.yaml")
    rows = [row for row in read_metrics(result.folder.metrics) if "loss" in row]
    assert [row["global_batch"] for row in rows] == SIZES
    assert rows[-1]["tokens"] == 32 * sum(SIZES)
    theirs, samples = theirs_of(folder / "base").train(), open_samples(folder / "tokens", 32, seed=1234)
    decayed = [one for one in theirs.parameters() if one.ndim >= 2]
    groups = [{"params": decayed}, {"params": [o for o in theirs.parameters() if o.ndim < 2], "weight_decay": 0.0}]
    optimizer, seen = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95), eps=1e-5, weight_decay=0.1), 0
    for row, size in zip(rows, SIZES, strict=True):
        batch = {key: torch.from_numpy(array) for key, array in samples.arrays(range(seen, seen + size)).items()}
        logits = theirs(batch["tokens"]).logits
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten())
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        optimizer.step()
        seen += size
        assert row["loss"] == pytest.approx(loss.item(), rel=1e-4)
        assert row["grad_norm"] == pytest.approx(norm.item(), rel=1e-3)


def test_a_run_in_two_parts_goes_on_with_the_sizes_and_ends_with_the_same_bits(folder: Path) -> None:
    whole = train(folder / "recipe.yaml", ["name=whole"])
    train(folder / "recipe.yaml", ["name=parts", "training.steps=1"])
    parts = train(folder / "recipe.yaml", ["name=parts"])
    assert [row["global_batch"] for row in read_metrics(parts.folder.metrics) if "loss" in row] == SIZES
    assert parameters_hash(parts.folder.checkpoints) == parameters_hash(whole.folder.checkpoints)


@pytest.fixture(scope="module")
def on_two(folder: Path) -> dict[str, Measured]:
    return run_in_group(2, layouts_and_parts, str(folder / "recipe.yaml"), str(folder / "packed.yaml"))[0]


def layouts_and_parts(path: str, packed: str) -> dict[str, Measured]:
    """Also two steps each of runs that one process will go on with."""
    found = all_layouts({"ramp": path}, 2, LAYOUTS, False) | all_layouts({"packed": packed}, 2, OF_PACKED, False)
    train(path, ["name=recipe-moved", "training.steps=2", "parallel.data=2", "parallel.shard=1"])
    train(packed, ["name=packed-moved", "training.steps=2", "parallel.pipeline=2"])
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
def test_two_processes_equal_one(layout: str, folder: Path, on_two: dict[str, Measured]) -> None:
    assert_same(on_two[f"ramp, {layout}"], measured(str(folder / "recipe.yaml"), 1, []))


@pytest.mark.parametrize("layout", OF_PACKED)
def test_two_processes_equal_one_on_a_packed_blend(layout: str, folder: Path, on_two: dict[str, Measured]) -> None:
    assert_same(on_two[f"packed, {layout}"], measured(str(folder / "packed.yaml"), 1, []))


@pytest.mark.parametrize("recipe", ["recipe", "packed"])
def test_one_process_goes_on_with_the_sizes_of_two(recipe: str, folder: Path, on_two: dict[str, Measured]) -> None:
    rows, wanted = (
        [row for row in read_metrics(train(folder / f"{recipe}.yaml", [name]).folder.metrics) if "loss" in row]
        for name in (f"name={recipe}-moved", f"name={recipe}-unmoved")
    )
    assert [row["global_batch"] for row in rows] == SIZES
    assert [row["tokens"] for row in rows] == [row["tokens"] for row in wanted]
    assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in wanted], rel=1e-5)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["batch.ramp_up.increment=3"], r"start=4 steps of increment=3 do not lead to batch.global_batch=8"),
        (["batch.ramp_up.start=8"], "Use a smaller start"),
        (
            ["batch.micro_batch=4"],
            r"a batch of 6, no multiple of parallel.data=1 x batch.micro_batch=4.* multiples",
        ),
        (
            ["parallel.pipeline=2", "batch.ramp_up.start=1", "batch.ramp_up.increment=1"],
            r"a batch of 1, 1 micro-batches, and parallel.schedule=1f1b over parallel.pipeline=2 needs at least 2.*"
            r"multiples of 2",
        ),
        (["batch.ramp_up.samples=0"], r"batch.ramp_up.samples=0: must be more than 0"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_first(folder: Path, overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        train(folder / "recipe.yaml", ["name=x", *overrides])
    assert not (folder / "x").exists()

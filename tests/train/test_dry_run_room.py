"""What a dry run says where a rank does not fit: by how much, and which neighbours of the recipe would.

Whether what it says is so is asked of another dry run; which ones are named first, of a memory counted by hand.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from hanbit.config.recipe import Recipe
from hanbit.config.resolve import resolve
from hanbit.train import dry_run_room
from hanbit.train.dry_run import dry_run
from hanbit.train.dry_run_memory import RankMemory
from hanbit.train.dry_run_room import Way, ways_to_fit
from hanbit.train.dry_run_text import told
from hanbit.train.live_tensors import Part
from tests.train.recipes import tiny_run

STATE, PASSING = 1200, 800  # bytes of the whole model, and of a micro-batch of four


@pytest.fixture(autouse=True)
def lone_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)


def test_what_lacks_and_what_would_fit_is_told_and_fits_when_typed(tmp_path: Path) -> None:
    recipe = [*tiny_run(tmp_path), "cluster.gpus_per_node=1"]
    roomy = dry_run("llama/base", [*recipe, "cluster.gpu_memory_gb=80"])
    assert (roomy.lacking_bytes, roomy.ways) == (0, ())
    assert "fits, if kernels" in told(roomy, as_json=False)
    needed = roomy.fullest.total
    small = [*recipe, f"cluster.gpu_memory_gb={0.9 * needed / 1e9}"]
    found = dry_run("llama/base", small)
    assert found.lacking_bytes == pytest.approx(0.1 * needed, rel=0.01)
    printed, facts = told(found, as_json=False), json.loads(told(found, as_json=True))
    assert "does not fit, by 0.0 GB" in printed
    assert len(found.ways) == len(facts["would_fit"]) > 0
    way, fact = found.ways[0], facts["would_fit"][0]
    assert f"    {' '.join(way.settings)}  (" in printed
    typed = dry_run("llama/base", [*small, *fact["settings"]])
    assert (typed.lacking_bytes, typed.fullest.total) == (0, fact["needed_bytes"])


def recipe_of(processes: int, **sections: dict[str, Any]) -> Recipe:
    model = {"family": "llama", "layers": 8, "hidden": 32, "heads": 4, "inner": 64, "vocabulary": 512}
    whole = {
        "name": "traced",
        "model": model,
        "data": {"train": "nowhere"},
        "batch": {"micro_batch": 4, "global_batch": 64, "sequence_length": 64},
        "training": {"steps": 1},
        "cluster": {"gpus_per_node": processes},
        **sections,
    }
    return resolve(Recipe.model_validate(whole), world_size=processes, vocabulary=None).recipe


@pytest.fixture
def by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's memory in round numbers; every stage holds the same."""

    def memory_of(recipe: Recipe, stage: int) -> RankMemory:
        parallel = recipe.parallel
        cut = parallel.tensor * parallel.pipeline
        shared = {0: 1.0, 1: 0.75, 2: 0.5, 3: 0.25}[parallel.shard]
        kept = {"none": 1.0, "selective": 0.5, "full": 0.125}[recipe.training.recompute]
        passing = PASSING * kept * int(recipe.batch.micro_batch) / 4 / cut
        shared = 0.125 if parallel.offload else shared  # what is gathered
        parts = {**dict.fromkeys(Part, 0), Part.WEIGHTS: int(STATE * shared / cut), Part.ACTIVATIONS: int(passing)}
        return RankMemory(stage, 0, None, parts)

    monkeypatch.setattr(dry_run_room, "memory_of", memory_of)


def named(recipe: Recipe, room: int) -> tuple[Way, ...]:
    return ways_to_fit(recipe, room, dry_run_room.memory_of(recipe, 0).parts)


@pytest.mark.usefixtures("by_hand")
def test_of_each_kind_the_mildest_that_is_enough_is_named() -> None:
    """2000 bytes are needed. To 1700: a little of anything."""
    assert named(recipe_of(4), 1700) == (
        Way(("training.recompute=selective",), 1600),
        Way(("parallel.shard=1",), 1700),
        Way(("parallel.shard=3", "parallel.offload=true"), 950),
        Way(("batch.micro_batch=2",), 1600),
        Way(("parallel.tensor=2", "parallel.data=2"), 1000),
        Way(("parallel.pipeline=2", "parallel.data=2"), 1000),
    )


@pytest.mark.usefixtures("by_hand")
def test_what_cannot_be_enough_is_not_named() -> None:
    """To 1100: activations without weights, and weights without activations, are not enough."""
    assert named(recipe_of(4), 1100) == (
        Way(("parallel.shard=3",), 1100),
        Way(("parallel.shard=3", "parallel.offload=true"), 950),
        Way(("parallel.tensor=2", "parallel.data=2"), 1000),
        Way(("parallel.pipeline=2", "parallel.data=2"), 1000),
    )


@pytest.mark.usefixtures("by_hand")
def test_where_no_setting_is_enough_several_are_named_together() -> None:
    """To 100, on 4: recompute leaves 100 of 800, shard and offload 150 of 1200, a micro-batch of one 25; tensor a half.
    Not tensor 4: it leaves no replicas to shard over."""
    (way,) = named(recipe_of(4), 100)
    assert way == Way(
        (
            "training.recompute=full",
            "parallel.shard=3",
            "parallel.offload=true",
            "batch.micro_batch=1",
            "parallel.tensor=2",
            "parallel.data=2",
        ),
        87,
    )


@pytest.mark.usefixtures("by_hand")
def test_rules_of_the_recipe_hold_for_what_is_named() -> None:
    """Three heads: no tensor axis of two; a schedule that has no part in a lone process."""
    model = {"family": "llama", "layers": 8, "hidden": 48, "heads": 3, "inner": 63, "vocabulary": 512}
    recipe = recipe_of(2, model=model, parallel={"shard": 3}, training={"steps": 1, "recompute": "full"})
    assert named(recipe, 240) == (Way(("parallel.pipeline=2", "parallel.data=1"), 200),)


@pytest.mark.usefixtures("by_hand")
def test_what_nothing_makes_fit_has_no_way() -> None:
    assert named(recipe_of(1), 1200) == ()

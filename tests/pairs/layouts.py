"""What the first steps of a run give in a layout, losses and gradient norms; and whether one process gives the same."""

from typing import Any

import pytest
import torch

from hanbit.config.load import load_recipe
from hanbit.config.resolve import resolve
from hanbit.parallel.clip import norm_of_each
from hanbit.parallel.collectives import LEFT_OUT, Purpose
from hanbit.train.adapter import model_of
from hanbit.train.loop import one_step
from hanbit.train.run import build
from hanbit.train.setup import grid_of

STEPS = 3
Measured = dict[str, Any]


def measured(path: str, size: int, overrides: list[str], without: Purpose | None = None) -> Measured:
    """Losses, total norms and the norm of every trained matrix's gradient, step by step."""
    loaded = load_recipe(path, overrides, environment={}, model_of=model_of)
    recipe = resolve(loaded.recipe, world_size=size, vocabulary=400, device="cpu").recipe
    grid = grid_of(recipe, torch.device("cpu"))
    LEFT_OUT.update({without} if without else ())
    training = build(recipe, grid)
    losses, norms, each = [], [], []
    for _ in range(STEPS):
        numbers, _ = one_step(training)
        losses.append(numbers["loss"])
        norms.append(numbers["grad_norm"])
        each.append(norm_of_each(training.model))
    LEFT_OUT.clear()
    return {"losses": losses, "norms": norms, "each": each}


def all_layouts(paths: dict[str, str], size: int, layouts: dict[str, list[str]], lame: bool) -> dict[str, Measured]:
    """In one group of processes, because starting Python is what takes long."""
    found = {
        f"{base}, {name}": measured(path, size, overrides)
        for base, path in paths.items()
        for name, overrides in layouts.items()
    }
    if lame:
        path = next(iter(paths.values()))
        found["lame"] = measured(path, size, ["parallel.tensor=2"], Purpose.SHARED_GRADIENT)
    return found


def assert_same(found: Measured, wanted: Measured) -> None:
    assert wanted["losses"][-1] < 0.9 * wanted["losses"][0], "equality of standing still proves nothing"
    assert found["losses"] == pytest.approx(wanted["losses"], rel=1e-5)
    assert found["norms"] == pytest.approx(wanted["norms"], rel=1e-5)
    for mine, theirs, total in zip(found["each"], wanted["each"], wanted["norms"], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-7 * total)

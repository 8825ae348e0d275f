"""What a checkpoint of a run holds, how it is saved, and how a run takes it up again exactly."""

import logging
from pathlib import Path
from typing import Any

import torch

from hanbit.checkpoint.load import load_tensors, newest_checkpoint, read_state
from hanbit.checkpoint.save import save_checkpoint
from hanbit.common.errors import CheckpointError
from hanbit.parallel.grid import Grid
from hanbit.parallel.pieces import Piece, local_tensor
from hanbit.train.adapter import base_digest
from hanbit.train.setup import Training, is_conversations

logger = logging.getLogger(__name__)


def save(training: Training, checkpoints: Path) -> Path:
    """Commit a checkpoint of this moment, by all processes together."""
    keep = training.recipe.checkpoint.keep
    return save_checkpoint(
        checkpoints, training.step, _tensors(training), _state(training), training.model.grid.rank, keep
    )


def find(checkpoints: Path, grid: Grid) -> Path | None:
    return newest_checkpoint(checkpoints, grid.rank, grid.size)


def resume(training: Training, folder: Path) -> None:
    """Set parameters, optimizer and counters to what they were when `folder` was saved, in whatever layout we run.

    Raises CheckpointError on another run's checkpoint, or one of a step that this run would not reach.
    """
    state = read_state(folder)
    _check_same_run(training, state, folder)
    if state["step"] > training.steps:
        raise CheckpointError(
            f"{folder} is of step {state['step']}, beyond training.steps={training.steps}. Use training.steps="
            f"{state['step']} or more, or give a shorter run another name=..."
        )
    load_tensors(folder, _tensors(training))
    training.step = state["step"]
    training.samples_seen = state["samples_seen"]
    training.tokens_seen = state["tokens_seen"]
    training.optimizer.steps_done = state["optimizer_steps"]
    if training.loss_scale is not None:
        training.loss_scale.take_up(state.get("loss_scale", {}))


def _tensors(training: Training) -> dict[str, tuple[Piece, torch.Tensor]]:
    """Moments are of the rows that a process updates, which may be fewer than it has of the parameter."""
    optimizer, pieces, updated = training.optimizer, training.model.pieces, training.model.updated
    tensors = {}
    for name, parameter in training.model.trained.items():  # a frozen base is its own folder's to keep
        tensors[f"parameter/{name}"] = (pieces[name], local_tensor(parameter))
        tensors[f"first_moment/{name}"] = (updated[name], optimizer.first_moment[name])
        tensors[f"second_moment/{name}"] = (updated[name], optimizer.second_moment[name])
    return tensors


def _state(training: Training) -> dict[str, Any]:
    return {
        "step": training.step,
        "samples_seen": training.samples_seen,
        "tokens_seen": training.tokens_seen,
        "optimizer_steps": training.optimizer.steps_done,
        "loss_scale": {} if training.loss_scale is None else training.loss_scale.state(),
        "model": training.recipe.model.model_dump(mode="json"),
        "order": _order(training),
        "tuning": _tuning(training),
    }


def _order(training: Training) -> dict[str, Any]:
    """What decides which tokens a sample number means; `samples_seen` is worth nothing without it."""
    recipe = training.recipe
    return {
        "sequence_length": recipe.batch.sequence_length,
        "seed": recipe.training.seed,
        "samples_per_epoch": len(training.samples),
        "packing": recipe.data.packing if recipe.data.packing != "none" else None,
        "split": recipe.data.split if isinstance(recipe.data.split, str) and not recipe.data.validation else None,
        "conversations" if is_conversations(recipe) else "tokens": training.samples.digest,
    }


def _tuning(training: Training) -> dict[str, Any]:
    """What the trained matrices belong to; empty for a run that trains all of the model."""
    tuning = training.recipe.tuning
    return (
        {}
        if tuning is None
        else {**tuning.model_dump(mode="json", exclude={"model"}), "base": base_digest(tuning.model)}
    )


def _check_same_run(training: Training, state: dict[str, Any], folder: Path) -> None:
    """Refuse another model's checkpoint, or one whose sample numbers mean other tokens."""
    ours = {
        "model": training.recipe.model.model_dump(mode="json"),
        "order": _order(training),
        "tuning": _tuning(training),
    }
    theirs = {section: state.get(section, {}) for section in ours}
    different = [
        f"{section}.{key}={theirs[section].get(key)!r} (this recipe: {values.get(key)!r})"
        for section, values in ours.items()
        for key in sorted({*values, *theirs[section]})
        if values.get(key) != theirs[section].get(key)
    ]
    if different:
        raise CheckpointError(
            f"{folder} was made with {', '.join(different)}. "
            "Give the run another name=..., or continue with the recipe it was started with"
        )

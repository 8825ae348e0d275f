"""`train`: from a recipe to a trained, exported model. The same call on one process and under torchrun.

load and resolve the recipe -> join the processes -> take the run folder -> open the data -> build -> resume
-> loop -> export -> report
"""

import logging
import math
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import torch

from hanbit.checkpoint.layout import folder_name
from hanbit.checkpoint.save import point_at
from hanbit.common.atomic import write_json, write_text
from hanbit.common.errors import RunFolderError
from hanbit.common.log import log_to_file
from hanbit.common.manifest import write_manifest
from hanbit.common.run_folder import RunFolder, lock_run_folder
from hanbit.common.units import readable_count, readable_seconds
from hanbit.config.data import sources
from hanbit.config.load import Loaded, load_recipe
from hanbit.config.recipe import Recipe
from hanbit.config.write import to_yaml
from hanbit.parallel.agree import from_all, together
from hanbit.parallel.grid import Grid, choose_device, start_processes, world_size
from hanbit.train import state
from hanbit.train.adapter import model_of
from hanbit.train.agreement import check_same_data, check_same_run
from hanbit.train.data import open_data, told
from hanbit.train.export import export
from hanbit.train.loop import StopRequest, Watch, train_steps
from hanbit.train.metrics import Metrics, is_number, read_metrics
from hanbit.train.precision import build_loss_scale
from hanbit.train.progress import TrainingProgress
from hanbit.train.report import write_report
from hanbit.train.resolution import resolution_of
from hanbit.train.setup import (
    Training,
    build_batches,
    build_model,
    build_optimizer,
    build_schedule,
    fill_model,
    grid_of,
)
from hanbit.train.speed import processor_of, speed_of
from hanbit.train.trace import Trace
from hanbit.train.trackers import start_trackers

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """Of a run on this process. `is_finished` is False after a stop was asked for; then the run can be continued."""

    folder: RunFolder
    step: int
    loss: float | None
    is_finished: bool


def train(source: str | Path | Recipe, overrides: Sequence[str] = ()) -> Result:
    """Train by a recipe (file, `family/size`, or a Recipe), with `section.key=value` overrides.

    Raises ConfigError, DataError, CheckpointError, RunFolderError before any step where something does not fit,
    TrainingError when the loss is no longer a number.
    """
    return run_recipe(
        Loaded(source, {}) if isinstance(source, Recipe) else load_recipe(source, overrides, model_of=model_of)
    )


def run_recipe(loaded: Loaded) -> Result:
    """A recipe that is loaded, from its resolution to its result."""
    device = choose_device(loaded.recipe.training.device)
    plan = resolution_of(loaded, world_size(), device.type, processor_of(device))
    grid = _join(plan.recipe)
    folder = RunFolder(Path(plan.recipe.runs) / plan.recipe.name)
    lock = _take(folder, grid)
    log_to_file(folder.log_of(grid.rank))
    for decision in plan.decisions:
        logger.info("%s=%s: %s", decision.key, decision.value, decision.reason)
    for note in plan.notes:
        logger.info("%s", note)
    try:
        return _run(plan.recipe, grid, folder)
    finally:
        if lock is not None:
            lock.close()


def _join(recipe: Recipe) -> Grid:
    device = choose_device(recipe.training.device)
    start_processes(device)
    check_same_run(recipe)  # before the groups of the grid, which other sizes would leave waiting
    return grid_of(recipe, device)


def _take(folder: RunFolder, grid: Grid) -> IO[str] | None:
    """Lock the run folder; rank 0's work, but a failure is everyone's."""
    lock = None
    with together(RunFolderError):
        if grid.rank == 0:
            lock = lock_run_folder(folder)
    return lock


def _describe(folder: RunFolder, recipe: Recipe, grid: Grid) -> None:
    """Write what the run is, once it is certain that it can start: an older description is not lost to a mistake."""
    with together(RunFolderError):
        if grid.rank == 0:
            folder.checkpoints.mkdir(parents=True, exist_ok=True)
            write_text(folder.config, to_yaml(recipe))
            write_json(folder.environment, environment(grid))


def environment(grid: Grid) -> dict[str, object]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "processor": platform.processor() or platform.machine(),
        **({"GPU": str(processor_of(grid.device))} if grid.device.type == "cuda" else {}),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": str(grid.device),
        "processes": grid.size,
        "grid": {axis.name: axis.size for axis in (grid.pipeline, grid.data, grid.context, grid.tensor)},
    }


def _run(recipe: Recipe, grid: Grid, folder: RunFolder) -> Result:
    training = build(recipe, grid)
    for line in told(recipe, training.samples):
        logger.info("%s", line)
    _start_or_resume(training, folder, grid)
    _describe(folder, recipe, grid)
    stop = StopRequest()
    stop.listen()
    metrics = _metrics(recipe, folder, training.step) if grid.rank == 0 else None
    progress = TrainingProgress(training.steps, training.step, recipe.logging.every_steps)
    watch = Watch(metrics, progress, Trace(recipe.logging.trace, folder.trace, grid), _report_of(folder, grid))
    try:
        with progress:
            is_finished = train_steps(training, folder.checkpoints, watch, stop)
    finally:
        if metrics is not None:
            metrics.close()
    if grid.rank == 0:
        _conclude(recipe, folder, folder.checkpoints / folder_name(training.step), is_finished)
    return Result(folder, training.step, _last_loss(folder), is_finished)


def _report_of(folder: RunFolder, grid: Grid) -> Callable[[], None] | None:
    return partial(write_report, folder) if grid.rank == 0 else None


def _metrics(recipe: Recipe, folder: RunFolder, step: int) -> Metrics:
    return Metrics(folder, step, start_trackers(recipe, folder, step))


def build(recipe: Recipe, grid: Grid) -> Training:
    """Open the data and build every part; nothing is started, numbers are fresh or the initial model's."""
    samples, validation = open_data(recipe, grid)
    check_same_data(samples, validation)
    model = build_model(recipe, grid)
    fill_model(recipe, model)
    return Training(
        recipe=recipe,
        model=model,
        optimizer=build_optimizer(recipe, model),
        schedule=build_schedule(recipe),
        batches=build_batches(recipe, model),
        samples=samples,
        validation=validation,
        speed=speed_of(recipe, grid),
        loss_scale=build_loss_scale(recipe),
    )


def _start_or_resume(training: Training, folder: RunFolder, grid: Grid) -> None:
    found = state.find(folder.checkpoints, grid)
    here = {name: math.prod(training.model.pieces[name].shape) for name in training.model.trained}
    count = sum({name: size for stage in from_all(here) for name, size in stage.items()}.values())
    if found is None:
        logger.info("starting %s: %d steps, %s parameters", folder.path, training.steps, readable_count(count))
        return
    if not training.recipe.checkpoint.resume:
        raise RunFolderError(
            f"{folder.path} already has checkpoints and checkpoint.resume=false. Choose another name=..., "
            "or remove the folder"
        )
    state.resume(training, found)
    with together(RunFolderError):
        if grid.rank == 0:
            point_at(found)
    logger.info("continuing %s after step %d of %d", folder.path, training.step, training.steps)


def _conclude(recipe: Recipe, folder: RunFolder, checkpoint: Path, is_finished: bool) -> None:
    """Rank 0 at the end: the exported model, the report, the manifest of the run.

    checkpoint: the one of the step that was reached, saved just now or resumed from.
    """
    if is_finished and recipe.checkpoint.export:
        export(recipe, folder, checkpoint)
    write_report(folder)
    logger.info("report %s", folder.report)
    files = [path.name for path in (folder.config, folder.environment, folder.metrics, folder.report)]
    write_manifest(
        folder.path,
        "run",
        files,
        is_finished=is_finished,
        parents=_parents(recipe),
    )
    rows = [row for row in read_metrics(folder.metrics) if is_number(row.get("step_seconds"))]
    logger.info("%d steps took %s", len(rows), readable_seconds(sum(row["step_seconds"] for row in rows)))


def _parents(recipe: Recipe) -> list[str]:
    starts = [recipe.training.initial_model, recipe.tuning.model if recipe.tuning else None]
    return [source.path for source in sources(recipe.data.train)] + [start for start in starts if start]


def _last_loss(folder: RunFolder) -> float | None:
    rows = [row for row in read_metrics(folder.metrics) if is_number(row.get("loss"))]
    return rows[-1]["loss"] if rows else None

"""What a run would be, looked at without starting it: no process, no memory for numbers, no file.

The model is built and cut on the meta device and a step is traced, so that a recipe for any number of processes can be
checked on a laptop. Data that is here is opened and compared with its manifest as a run would; where it is not, what
does not depend on it is told, and that it was not looked at.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from hanbit.checkpoint.layout import found_steps
from hanbit.common.environment import number_of
from hanbit.common.run_folder import RunFolder
from hanbit.config.data import sources
from hanbit.config.load import Loaded, load_recipe
from hanbit.config.recipe import Recipe
from hanbit.config.resolve import Resolved, expected_processes
from hanbit.data.megatron import bin_path
from hanbit.parallel.apply import ParallelModel
from hanbit.parallel.grid import Axis, Grid
from hanbit.train.adapter import model_of
from hanbit.train.data import open_data, tokens_per_step, told
from hanbit.train.dry_run_memory import RankMemory, memory_of
from hanbit.train.dry_run_room import Way, traced_stages, ways_to_fit
from hanbit.train.resolution import resolution_of
from hanbit.train.setup import build_model, is_conversations, known, open_start
from hanbit.train.speed import flops_per_step

_STATE_BYTES = 3 * 4  # of a trained parameter in a checkpoint: itself and two moments, float32


@dataclass(frozen=True)
class DryRun:
    """`stages`: parameters of one process of a stage before FSDP2 shares them out, by the stage's number from 0: of the
    first, a middle one, the last; `memory` of the same stages. ways: what would make it fit
    into cluster.gpu_memory_gb where it does not.

    data_missing: the token files that are not here; then tokens are those of full sequences, train_sequences None.
    reached: the step of the newest checkpoint, None where there is none. Bytes and counts are whole numbers.
    """

    resolved: Resolved
    processes: int
    parameters: int
    trained: int
    stages: dict[int, int]
    memory: tuple[RankMemory, ...]
    ways: tuple[Way, ...]
    flops_per_step: float
    tokens_per_step: int
    train_sequences: int | None
    validation_sets: dict[str, int]
    passes: tuple[str, ...]
    data_missing: str | None
    reached: int | None
    files: tuple[str, ...]

    @property
    def recipe(self) -> Recipe:
        return self.resolved.recipe

    @property
    def validation_sequences(self) -> int:
        return sum(self.validation_sets.values())

    @property
    def steps(self) -> int:
        return known(self.recipe.training.steps)

    @property
    def fullest(self) -> RankMemory:
        return max(self.memory, key=lambda one: one.total)

    @property
    def lacking_bytes(self) -> int | None:
        """Of the fullest rank, beyond one GPU's memory; 0 where it fits, None where that is not known."""
        room = room_of(self.recipe)
        return None if room is None else max(0, self.fullest.total - room)

    @property
    def checkpoint_bytes(self) -> int:
        return self.trained * _STATE_BYTES


def dry_run(source: str | Path, overrides: Sequence[str] = ()) -> DryRun:
    """Of `train`; see `dry_run_of`."""
    return dry_run_of(load_recipe(source, overrides, model_of=model_of))


def dry_run_of(loaded: Loaded) -> DryRun:
    """For as many processes as torchrun started, else as the section `cluster` has or `parallel` multiplies to.

    Raises what `train` raises before its first step, but for what only the training machine knows, its devices, and
    for a checkpoint that cannot be continued: none is read.
    """
    processes = number_of("WORLD_SIZE", expected_processes(loaded.recipe), at_least=1)
    resolved = resolution_of(loaded, processes, device=None)
    recipe = resolved.recipe
    missing = _missing(recipe)
    samples, validation = (None, {}) if missing else open_data(recipe, _place())
    model = _built(recipe, _place())
    open_start(recipe, model)
    folder = RunFolder(Path(recipe.runs) / recipe.name)
    stages = traced_stages(recipe.parallel.pipeline)
    memory = tuple(memory_of(recipe, stage) for stage in stages)
    batch = recipe.batch
    return DryRun(
        resolved=resolved,
        processes=processes,
        parameters=_count(model),
        trained=_count(model, trained=True),
        stages={stage: _count(_built(recipe, _place(recipe, stage))) for stage in stages},
        memory=memory,
        ways=_ways(recipe, memory),
        flops_per_step=flops_per_step(recipe),
        tokens_per_step=batch.global_batch * batch.sequence_length
        if samples is None
        else tokens_per_step(samples, batch.global_batch),
        train_sequences=None if samples is None else len(samples),
        validation_sets={name: len(one) for name, one in validation.items()},
        passes=(f"data.train={missing} is not here and was not looked at",)
        if samples is None
        else tuple(told(recipe, samples)),
        data_missing=missing,
        reached=next(iter(found_steps(folder.checkpoints)), None),
        files=_files(recipe, folder),
    )


def _missing(recipe: Recipe) -> str | None:
    """data.train, where none of its token files is on this machine: those of a cluster lie on the cluster."""
    if is_conversations(recipe):
        return None
    paths = [Path(source.path) for source in sources(recipe.data.train)]
    is_here = any(path.exists() or bin_path(path).exists() for path in paths)
    return None if is_here else ", ".join(map(str, paths))


def _place(recipe: Recipe | None = None, stage: int = 0) -> Grid:
    """The first process of a pipeline stage, on a grid that nobody joins; without a recipe, one process alone."""
    device = torch.device("meta")
    if recipe is None:
        return Grid(device, Axis("pipeline"), Axis("data"), Axis("tensor"))
    parallel = recipe.parallel
    pipeline = Axis("pipeline", parallel.pipeline, stage)
    return Grid(
        device,
        pipeline,
        Axis("data", known(parallel.data)),
        Axis("tensor", parallel.tensor),
        expert=Axis("expert", parallel.expert),
    )


def _built(recipe: Recipe, grid: Grid) -> ParallelModel:
    """Before FSDP2, which needs its peers, not compiled, and without fp8, which needs its card."""
    whole = {"virtual": 1, "layers_per_stage": "balanced"} if grid.pipeline.size == 1 else {}
    parallel = recipe.parallel.model_copy(update={"shard": 0, "offload": False, **whole})
    training = recipe.training.model_copy(update={"compile": False, "precision": "fp32"})
    return build_model(recipe.model_copy(update={"parallel": parallel, "training": training}), grid)


def _count(model: ParallelModel, trained: bool = False) -> int:
    """Of the pieces that this process holds."""
    names = model.trained if trained else model.parameters
    return sum(model.parameters[name].numel() for name in names)


def room_of(recipe: Recipe) -> int | None:
    """Bytes of one GPU, where the recipe says them."""
    size = None if recipe.cluster is None else recipe.cluster.gpu_memory_gb
    return None if size is None else int(size * 1e9)


def _ways(recipe: Recipe, memory: tuple[RankMemory, ...]) -> tuple[Way, ...]:
    room, fullest = room_of(recipe), max(memory, key=lambda one: one.total)
    if room is None or fullest.total <= room:
        return ()
    return ways_to_fit(recipe, room, fullest.parts)


def _files(recipe: Recipe, folder: RunFolder) -> tuple[str, ...]:
    paths = [folder.config, folder.environment, folder.metrics, folder.checkpoints, folder.log_of(0).parent]
    paths += [folder.tensorboard] if recipe.logging.tensorboard else []
    paths += [folder.trace] if recipe.logging.trace else []
    if recipe.checkpoint.export:
        paths.append(folder.model if recipe.tuning is None else folder.adapter)
    return tuple(map(str, [*paths, folder.report, folder.path / "hanbit.json"]))

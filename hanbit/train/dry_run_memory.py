"""What a rank holds at the fullest moment of a step, found by running the step without numbers.

The real stage, optimizer and pipeline schedule of the recipe run on fake tensors, as any rank of any number of
processes (parallel/rehearsal.py), and every tensor that is alive is counted (train/live_tensors.py). A step repeats
itself: more micro-batches than fill the pipeline, and more layers than a few, each add the same bytes again, so these
two are traced for two small counts and continued in a straight line.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch

from hanbit.common.capability import CPU
from hanbit.config.recipe import Recipe, TrainingSection
from hanbit.parallel.apply import ParallelModel
from hanbit.parallel.clip import gradient_norm
from hanbit.parallel.rehearsal import held_gradients, on_device, playing, without_numbers
from hanbit.train.dry_run_batch import blank_batch, blank_objective
from hanbit.train.dry_run_fewer import period_of, removable, with_fewer, with_sizes
from hanbit.train.live_tensors import LiveTensors, Part
from hanbit.train.loop import update_weights
from hanbit.train.setup import build_batches, build_model, build_optimizer, grid_of, known, processes_of

Bytes = dict[Part, int]


@dataclass(frozen=True)
class Moments:
    """At the fullest moment of the passes, of the gradients' norm, of the update: which is the fullest of all depends
    on the number of layers, so each is continued by itself. Of both memories; the host's is empty without offload."""

    device: tuple[Bytes, ...]
    host: tuple[Bytes, ...]


@dataclass(frozen=True)
class RankMemory:
    """Of the first rank of a pipeline stage, in bytes. `node`: where it runs, None where the recipe has no cluster.

    parts: in the device's memory. host: of `parallel.offload`, in the CPU's, empty without.
    """

    stage: int
    rank: int
    node: int | None
    parts: Bytes
    host: Bytes = field(default_factory=dict)

    @property
    def total(self) -> int:
        """On the device."""
        return sum(self.parts.values())

    @property
    def host_total(self) -> int:
        return sum(self.host.values())


def memory_of(recipe: Recipe, stage: int) -> RankMemory:
    """Of a process of the pipeline by its number from 0. The recipe must be resolved; the process must not have joined
    others."""
    cluster = recipe.cluster
    rank = stage * processes_of(recipe) // recipe.parallel.pipeline
    node = None if cluster is None else rank // cluster.gpus_per_node
    moments = _continued(with_sizes(_with_precision(recipe)), rank)
    host = fullest(moments.host) if recipe.parallel.offload else {}
    return RankMemory(stage, rank, node, fullest(moments.device), host)


def fullest(moments: tuple[Bytes, ...]) -> Bytes:
    return max(moments, key=lambda parts: sum(parts.values()))


def counted_precision(training: TrainingSection) -> str:
    """`auto` is what nearly every GPU makes of it, or what a CPU does; what fp8 keeps for backward is bf16."""
    if training.precision == "fp8":
        return "bf16"
    if training.precision != "auto":
        return training.precision
    return CPU.auto if training.device == "cpu" else "bf16"


def _with_precision(recipe: Recipe) -> Recipe:
    precision = counted_precision(recipe.training)
    return recipe.model_copy(update={"training": recipe.training.model_copy(update={"precision": precision})})


def _continued(recipe: Recipe, rank: int) -> Moments:
    """Traced with few layers and few micro-batches where the recipe has more, each then continued by itself."""
    count, (few, more) = micro_batches(recipe), _straight_from(recipe, rank)
    few = min(few, count)
    taken = removable(recipe, rank)
    total = first = trace(with_fewer(recipe, taken), rank, few)
    for stack, layers in enumerate(taken):
        if layers:
            period = period_of(recipe)
            fewer = tuple(one - period * (number == stack) for number, one in enumerate(taken))
            total = _sum(total, trace(with_fewer(recipe, fewer), rank, few), first, layers, period)
    if count > few and recipe.parallel.pipeline > 1:  # without stages nothing is left behind
        left = _sum(total, trace(with_fewer(recipe, taken), rank, few + more), first, count - few, more)
        total = Moments(_grown(total.device, left.device), _grown(total.host, left.host))
    return total


def _grown(moments: tuple[Bytes, ...], left: tuple[Bytes, ...]) -> tuple[Bytes, ...]:
    """What micro-batches leave behind are activations: of two moments that hold as much, one with a message and one
    without, now the one is the fullest and now the other, and a line through both would continue their difference."""
    return tuple(
        {**parts, Part.ACTIVATIONS: parts[Part.ACTIVATIONS] + sum(more.values()) - sum(parts.values())}
        for parts, more in zip(moments, left, strict=True)
    )


def _straight_from(recipe: Recipe, rank: int) -> tuple[int, int]:
    """Micro-batches that fill the pipeline from here to its end and add to its gradients; so many more always add the
    same. Not fewer than stages, which torch refuses."""
    parallel = recipe.parallel
    if parallel.schedule == "gpipe" and parallel.pipeline > 1:
        return micro_batches(recipe), 1  # each one is kept by every layer: no straight line beside the layers'
    if parallel.schedule == "1f1b" or parallel.pipeline == 1:
        behind = parallel.pipeline - rank * parallel.pipeline // processes_of(recipe)
        return max(behind + 1, parallel.pipeline), 1
    return 3 * parallel.pipeline, parallel.pipeline  # in rounds of one for each process


def _sum(total: Moments, more: Moments, first: Moments, wanted: int, added: int) -> Moments:
    """With `wanted` more of something, of which `added` make `more` of `first`."""

    def continued(name: str) -> tuple[Bytes, ...]:
        each = zip(*(getattr(one, name) for one in (total, more, first)), strict=True)
        return tuple(
            {part: so_far[part] + (one[part] - other[part]) * wanted // added for part in Part}
            for so_far, one, other in each
        )

    return Moments(continued("device"), continued("host"))


def micro_batches(recipe: Recipe) -> int:
    """Of one replica in one step."""
    batch = recipe.batch
    return batch.global_batch // (known(recipe.parallel.data) * known(batch.micro_batch))


def trace(recipe: Recipe, rank: int, count: int) -> Moments:
    """Of one rank in a step of `count` micro-batches."""
    recipe, live = _of_few(recipe, count), LiveTensors(recipe.parallel.offload)
    with playing(rank, processes_of(recipe), making_room=lambda: live.making(Part.COMMUNICATION)):
        grid = grid_of(recipe, torch.device("cpu"))
        cut = build_model(recipe, replace(grid, device=torch.device("meta")))
        with without_numbers(), live:
            taken = list(_take_step(recipe, cut, grid.device, live))
    return Moments(tuple(device for device, _ in taken), tuple(host for _, host in taken))


def _of_few(recipe: Recipe, count: int) -> Recipe:
    """With `count` micro-batches, and not compiled: compiled blocks hold less, and need a compiler to be known."""
    sequences = count * known(recipe.batch.micro_batch) * known(recipe.parallel.data)
    batch = recipe.batch.model_copy(update={"global_batch": sequences})
    training = recipe.training.model_copy(update={"compile": False})
    return recipe.model_copy(update={"batch": batch, "training": training})


def _take_step(
    recipe: Recipe, cut: ParallelModel, device: torch.device, live: LiveTensors
) -> Iterator[tuple[Bytes, Bytes]]:
    """As train/loop.py does, without what needs numbers: reading the loss and the norm."""
    offload = recipe.parallel.offload
    with live.making(Part.WEIGHTS, on_host=offload):
        model = on_device(cut, device)
    with live.making(Part.OPTIMIZER, on_host=offload):
        optimizer = build_optimizer(recipe, model)
    with live.making(Part.GRADIENTS):
        batches = build_batches(recipe, model)
    for stage in model.stages:
        stage.objective = blank_objective(recipe, stage.objective)
    live.gradients = lambda: held_gradients(model)
    live.begin()
    sequences = recipe.batch.global_batch // known(recipe.parallel.data)
    batch = blank_batch(recipe, sequences, device)
    batches.forward_backward(batch, batch["targets"].numel())
    yield live.device.parts(), live.host.parts()
    live.begin()
    gradient_norm(model)
    yield live.device.parts(), live.host.parts()
    live.begin()
    update_weights(model, optimizer, learning_rate=1.0)
    yield live.device.parts(), live.host.parts()

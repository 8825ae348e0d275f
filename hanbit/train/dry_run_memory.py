"""What a rank holds at the fullest moment of a step, found by running the step without numbers.

The real stage, optimizer and pipeline schedule of the recipe run on fake tensors, as any rank of any number of
processes (parallel/rehearsal.py), and every tensor that is alive is counted (train/live_tensors.py). A step repeats
itself: more micro-batches than fill the pipeline, and more layers than a few, each add the same bytes again, so these
two are traced for two small counts and continued in a straight line.
"""

from dataclasses import dataclass, replace

import torch

from hanbit.config.recipe import Recipe
from hanbit.models.registry import family_of
from hanbit.parallel.apply import ParallelModel
from hanbit.parallel.clip import gradient_norm
from hanbit.parallel.objectives import ANSWERS, NEXT_TOKENS
from hanbit.parallel.rehearsal import held_gradients, on_device, playing, without_numbers
from hanbit.parallel.split import layers_per_stage
from hanbit.train.live_tensors import LiveTensors, Part
from hanbit.train.loop import update_weights
from hanbit.train.setup import build_batches, build_model, build_optimizer, grid_of, known, processes_of

_FEW_LAYERS = 2  # of a stage: FSDP2 gathers one while the other is used

Bytes = dict[Part, int]


@dataclass(frozen=True)
class RankMemory:
    """Of the first rank of a pipeline stage, in bytes. `node`: where it runs, None where the recipe has no cluster."""

    stage: int
    rank: int
    node: int | None
    parts: Bytes

    @property
    def total(self) -> int:
        return sum(self.parts.values())


def is_traced(recipe: Recipe) -> bool:
    """Not where what a step holds depends on numbers: which expert gets how many tokens, which words are masked.

    Nor where it is in two memories: a trace knows one.
    """
    return not recipe.parallel.offload and recipe.model.family in ("gpt", "llama")


def memory_of(recipe: Recipe, stage: int) -> RankMemory:
    """The recipe must be resolved; the process must not have joined others."""
    cluster = recipe.cluster
    rank = stage * processes_of(recipe) // recipe.parallel.pipeline
    node = None if cluster is None else rank // cluster.gpus_per_node
    return RankMemory(stage, rank, node, _continued(recipe, rank))


def _continued(recipe: Recipe, rank: int) -> Bytes:
    """Traced with few layers and few micro-batches where the recipe has more, each then continued by itself."""
    count, enough = micro_batches(recipe), recipe.parallel.pipeline + 1  # fills the pipeline, adds to its gradients
    if recipe.parallel.schedule != "1f1b" or count < enough:
        return trace(recipe, rank, count)  # what comes and goes takes turns: no straight line
    sizes = _layers_per_stage(recipe)
    more_layers = max(0, min(sizes) - _FEW_LAYERS)
    more_batches = count - enough if recipe.parallel.pipeline > 1 else 0  # without stages nothing is left behind
    first = trace(_with_layers(recipe, sizes, more_layers), rank, enough)
    total = dict(first)
    if more_layers:
        one_more = trace(_with_layers(recipe, sizes, more_layers - 1), rank, enough)
        total = _sum(total, one_more, first, more_layers)
    if more_batches:
        one_more = trace(_with_layers(recipe, sizes, more_layers), rank, enough + 1)
        total = _sum(total, one_more, first, more_batches)
    return total


def _layers_per_stage(recipe: Recipe) -> tuple[int, ...]:
    chosen = recipe.parallel.layers_per_stage
    if chosen != "balanced":
        return tuple(chosen)
    family = family_of(recipe.model)
    with torch.device("meta"):
        return layers_per_stage(family.build(recipe.model), family.plan, recipe.parallel.pipeline)


def _with_layers(recipe: Recipe, sizes: tuple[int, ...], taken: int) -> Recipe:
    """Each stage with so many fewer."""
    fewer = [size - taken for size in sizes]
    model = recipe.model.model_copy(update={"layers": sum(fewer)})
    return recipe.model_copy(
        update={"model": model, "parallel": recipe.parallel.model_copy(update={"layers_per_stage": fewer})}
    )


def _sum(total: Bytes, one_more: Bytes, first: Bytes, times: int) -> Bytes:
    """With what one more of something adds, so many times."""
    return {part: total[part] + times * (one_more[part] - first[part]) for part in Part}


def micro_batches(recipe: Recipe) -> int:
    """Of one replica in one step."""
    batch = recipe.batch
    return batch.global_batch // (known(recipe.parallel.data) * known(batch.micro_batch))


def trace(recipe: Recipe, rank: int, count: int) -> Bytes:
    """Bytes of one rank at the fullest moment of a step of `count` micro-batches."""
    recipe, live = _of_few(recipe, count), LiveTensors()
    with playing(rank, processes_of(recipe), receiving=lambda: live.making(Part.COMMUNICATION)):
        grid = grid_of(recipe, torch.device("cpu"))
        cut = build_model(recipe, replace(grid, device=torch.device("meta")))
        with without_numbers(), live:
            _take_step(recipe, cut, grid.device, live)
    return live.parts()


def _of_few(recipe: Recipe, count: int) -> Recipe:
    """With `count` micro-batches, and not compiled: compiled blocks hold less, and need a compiler to be known."""
    sequences = count * known(recipe.batch.micro_batch) * known(recipe.parallel.data)
    batch = recipe.batch.model_copy(update={"global_batch": sequences})
    training = recipe.training.model_copy(update={"compile": False})
    return recipe.model_copy(update={"batch": batch, "training": training})


def _take_step(recipe: Recipe, cut: ParallelModel, device: torch.device, live: LiveTensors) -> None:
    """As train/loop.py does, without what needs numbers: reading the loss and the norm."""
    with live.making(Part.WEIGHTS):
        model = on_device(cut, device)
    with live.making(Part.OPTIMIZER):
        optimizer = build_optimizer(recipe, model)
    with live.making(Part.GRADIENTS):
        batches = build_batches(recipe, model)
    for stage in model.stages:
        if stage.objective is ANSWERS:
            stage.objective = NEXT_TOKENS  # which targets count is known from the data alone: here all of them
    live.gradients = lambda: held_gradients(model)
    live.begin()
    sequences = recipe.batch.global_batch // known(recipe.parallel.data)
    tokens = torch.zeros(sequences, recipe.batch.sequence_length, dtype=torch.int64, device=device)
    batches.forward_backward({"tokens": tokens, "targets": tokens}, tokens.numel())
    gradient_norm(model)
    update_weights(model, optimizer, learning_rate=1.0)

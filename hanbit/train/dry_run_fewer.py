"""A recipe with fewer layers whose stages are of the same kind: what a dry run traces in place of the whole.

Layers of a stage add up the same whatever their number, as long as those that differ are counted apart: an encoder's
from a decoder's, and with what comes every so many layers, experts, recompute or a layer without a window, a whole
period at a time.
"""

import math

import torch

from hanbit.config.model import MixedWindowConfig, MixtureConfig, T5Config, num_layers
from hanbit.config.recipe import Recipe
from hanbit.models.registry import family_of
from hanbit.parallel.grid import Axis
from hanbit.parallel.holders import ranges
from hanbit.parallel.schedules import stage_numbers
from hanbit.parallel.split import layers_per_stage
from hanbit.train.setup import known, processes_of

FEW_LAYERS = 2  # of a stage: FSDP2 gathers one while the other is used

Stacks = tuple[int, ...]
"""A number for each stack of layers: (encoder, decoder) of T5, (all,) of the others."""


def removable(recipe: Recipe, rank: int) -> Stacks:
    """How many layers of each stack every stage of this rank can do without: whole periods, and a few stay.

    Recipes here and below have `with_sizes`.
    """
    parallel = recipe.parallel
    if recipe.training.recompute != "none" and recipe.training.recompute_layers != "all":
        return (0,) * len(_stacks(recipe))  # the first of a stage differ from the others: no straight line
    assert parallel.schedule != "auto"
    place = rank * parallel.pipeline // processes_of(recipe)
    numbers = stage_numbers(parallel.schedule, parallel.virtual, Axis("pipeline", parallel.pipeline, place))
    ours = [_table(recipe)[number] for number in numbers]
    period = period_of(recipe)
    fewest = [min((layers for layers in stack if layers), default=0) for stack in zip(*ours, strict=True)]
    return tuple(max(0, layers - FEW_LAYERS) // period * period for layers in fewest)


def period_of(recipe: Recipe) -> int:
    """Layers after which a stage's pattern begins again."""
    model, every = recipe.model, recipe.training.recompute_every
    if isinstance(model, MixtureConfig):
        return math.lcm(model.sparse_every, every)
    if isinstance(model, MixedWindowConfig) and model.sliding_window is not None:
        return math.lcm(model.full_every, every)
    return every


def with_fewer(recipe: Recipe, taken: Stacks) -> Recipe:
    """Every stage with so many fewer of each stack; one that has not so many keeps a period of it at most."""
    period = period_of(recipe)
    table = [
        [layers - min(less, max(0, layers - 1) // period * period) for layers, less in zip(stage, taken, strict=True)]
        for stage in _table(recipe)
    ]
    totals = [sum(stack) for stack in zip(*table, strict=True)]
    layers = dict(zip(("layers", "decoder_layers"), totals, strict=False))
    parallel = recipe.parallel.model_copy(update={"layers_per_stage": [sum(stage) for stage in table]})
    return recipe.model_copy(update={"model": recipe.model.model_copy(update=layers), "parallel": parallel})


def _stacks(recipe: Recipe) -> Stacks:
    model = recipe.model
    return (model.layers, known(model.decoder_layers)) if isinstance(model, T5Config) else (model.layers,)


def _table(recipe: Recipe) -> list[Stacks]:
    """Of every stage the layers of each stack."""
    assert recipe.parallel.layers_per_stage != "balanced"
    stacks, table = ranges(_stacks(recipe)), []
    for stage in ranges(recipe.parallel.layers_per_stage):
        table.append(tuple(len(range(max(stage[0], one[0]), min(stage[-1], one[-1]) + 1)) for one in stacks))
    return table


def with_sizes(recipe: Recipe) -> Recipe:
    """With the number of layers of each stage in place of `balanced`."""
    parallel = recipe.parallel
    if parallel.layers_per_stage != "balanced":
        return recipe
    stages, sizes = parallel.pipeline * parallel.virtual, [num_layers(recipe.model)]
    if stages > 1:
        family = family_of(recipe.model)
        with torch.device("meta"):
            sizes = list(layers_per_stage(family.build(recipe.model), family.plan, stages))
    return recipe.model_copy(update={"parallel": parallel.model_copy(update={"layers_per_stage": sizes})})

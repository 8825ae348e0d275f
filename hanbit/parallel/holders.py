"""Which processes of the pipeline hold one weight together: a tied embedding at both ends, and what an encoder and its
decoder use in several places (the embedding, a table of positions for all layers of a stack).

Each of them has a copy with one start value; their gradients are summed, so that they stay alike.
"""

from collections.abc import Sequence
from typing import Any

from torch import nn

from hanbit.models.plan import Plan
from hanbit.parallel.grid import Axis, Grid, axis_over_stages


def modules_by_layers(model: Any, plan: Plan) -> dict[str, range]:
    """Top-level modules, and the layers whose stages use them."""
    layers = len(getattr(model, plan.repeat))
    if plan.used_by is not None:
        used = plan.used_by(model.config)
    else:
        used = {**dict.fromkeys(plan.first, range(1)), **dict.fromkeys(plan.last, range(layers - 1, layers))}
    return {name: users for name, users in used.items() if hasattr(model, name)}


def ranges(sizes: Sequence[int]) -> list[range]:
    """The layers of each stage, of their numbers."""
    return [range(sum(sizes[:stage]), sum(sizes[: stage + 1])) for stage in range(len(sizes))]


def holders_of(
    model: nn.Module, plan: Plan, tied: tuple[tuple[str, str], ...], stages: Sequence[range]
) -> dict[str, tuple[int, ...]]:
    """Parameter, by its original's name -> the stages that hold it, for those of more than one stage.

    model: whole. stages: the layers of each.
    """
    original_of, found = dict(tied), dict[str, set[int]]()
    for module, users in modules_by_layers(model, plan).items():
        here = {number for number, layers in enumerate(stages) if set(layers) & set(users)}
        for short, _ in getattr(model, module).named_parameters():
            name = f"{module}.{short}"
            found.setdefault(original_of.get(name, name), set()).update(here)
    return {name: tuple(sorted(numbers)) for name, numbers in sorted(found.items()) if len(numbers) > 1}


def axes_of(holders: dict[str, tuple[int, ...]], grid: Grid) -> dict[str, Axis]:
    """The peers that hold a weight with us, by its name; all processes make the groups, in the same order."""
    axes = {stages: axis_over_stages(grid, stages) for stages in sorted(set(holders.values()))}
    return {name: axes[stages] for name, stages in holders.items() if grid.pipeline.rank in stages}

"""Which layers each pipeline stage has: the slowest stage sets the pace of all of them."""

import math
from collections.abc import Callable, Sequence

from torch import nn

from hanbit.models.plan import Plan


def layers_per_stage(model: nn.Module, plan: Plan, stages: int) -> tuple[int, ...]:
    """How many layers each stage gets so that the heaviest is as light as can be, by the parameters that multiply.

    The last stage has the head beside its layers. The first one's embedding weighs nothing: a row is looked up.
    """
    blocks = [_weight(block) for block in getattr(model, plan.repeat).values()]
    head = sum(_weight(getattr(model, name)) for name in plan.last if hasattr(model, name))
    return balanced(blocks, head, stages)


def _weight(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def balanced(blocks: Sequence[int], head: int, stages: int) -> tuple[int, ...]:
    """Sizes of `stages` runs of blocks, each at least one long; `head` is added to the last one's weight.

    The heaviest run is as light as can be; among such splits the runs are as alike as can be, the longer ones first.
    """
    assert 1 <= stages <= len(blocks), f"{len(blocks)} layers cannot fill {stages} stages"
    limit, _ = _cheapest(blocks, head, stages, max)
    return _cheapest(blocks, head, stages, lambda cost, weight: cost + weight**2 if weight <= limit else math.inf)[1]


def _cheapest(
    blocks: Sequence[int], head: int, stages: int, add: Callable[[float, float], float]
) -> tuple[float, tuple[int, ...]]:
    """(cost, sizes) of the cheapest split; `add(cost so far, weight of one more run)`. Ties: short last runs."""
    best: dict[int, tuple[float, tuple[int, ...]]] = {0: (0.0, ())}  # by number of blocks dealt out
    for stage in range(stages):
        left = stages - 1 - stage
        found: dict[int, tuple[float, tuple[int, ...]]] = {}
        for end in range(stage + 1, len(blocks) - left + 1):
            weight = 0 if left else head
            for start in range(end - 1, stage - 1, -1):
                weight += blocks[start]
                cost = add(best[start][0], weight) if start in best else math.inf
                if end not in found or cost < found[end][0]:
                    found[end] = (cost, (*best[start][1], end - start) if start in best else ())
        best = found
    return best[len(blocks)]

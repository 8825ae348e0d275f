"""What to change where a rank does not fit into a GPU's memory: neighbours of the recipe, traced like itself.

One setting at a time, each in the order of what it costs in speed; where none is enough, one after the other is
added. Told is only what was traced and fits, and what the recipe's own rules allow on the same processes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hanbit.config.checks import misfits
from hanbit.config.recipe import Recipe
from hanbit.train.dry_run_memory import Bytes, memory_of
from hanbit.train.live_tensors import Part
from hanbit.train.setup import known, processes_of

Settings = dict[str, Any]
"""Key of a recipe -> value, such as {"parallel.tensor": 4, "parallel.data": 2}."""


@dataclass(frozen=True)
class Way:
    """`settings` as one types them behind the recipe; `needed`: bytes of the fullest rank that was traced."""

    settings: tuple[str, ...]
    needed: int


def traced_stages(pipeline: int) -> list[int]:
    """Processes of a pipeline that stand for all: the first, a middle and the last one."""
    return sorted({0, pipeline // 2, pipeline - 1})


@dataclass(frozen=True)
class _Kind:
    """Of change; the mildest first. Some may be against the rules. spares: the parts of memory that it can lessen."""

    spares: frozenset[Part]
    choices: list[Settings]


_STATE = frozenset({Part.WEIGHTS, Part.GRADIENTS, Part.OPTIMIZER})
_PASSING = frozenset({Part.ACTIVATIONS, Part.COMMUNICATION})


def ways_to_fit(recipe: Recipe, room: int, parts: Bytes) -> tuple[Way, ...]:
    """Each of them is enough alone; () where neither one of them nor all together are.

    room: bytes of the GPU. parts: what the recipe's fullest rank holds.
    """
    alone = [
        way
        for kind in _kinds(recipe)
        if sum(size for part, size in parts.items() if part not in kind.spares) <= room
        for way in _mildest(recipe, kind.choices, room)
    ]
    return tuple(alone) or tuple(_together(recipe, room))


def _mildest(recipe: Recipe, choices: list[Settings], room: int) -> Iterator[Way]:
    """The first that fits."""
    for settings in choices:
        changed = _changed(recipe, settings)
        needed = None if changed is None else _needed(changed, room)
        if needed is not None:
            yield Way(_typed(settings), needed)
            return


def _together(recipe: Recipe, room: int) -> Iterator[Way]:
    """One kind after the other, each as far as it goes, until it fits."""
    taken: Settings = {}
    for number in range(len(_kinds(recipe))):
        current = _changed(recipe, taken) or recipe
        kinds = _kinds(current)  # how far tensor and pipeline go depends on what came before
        for settings in reversed(kinds[number].choices):
            more = {**taken, **settings}
            changed = _changed(recipe, more)
            if changed is not None:
                taken = more
                needed = _needed(changed, room)
                if needed is not None:
                    yield Way(_typed(taken), needed)
                    return
                break


def _kinds(recipe: Recipe) -> list[_Kind]:
    """In the order of their price."""
    parallel = recipe.parallel
    per_node = 8 if recipe.cluster is None else recipe.cluster.gpus_per_node
    has_replicas = known(parallel.data) * parallel.context > 1
    return [
        _Kind(_PASSING, _more_recompute(recipe)),
        _Kind(_STATE, [{"parallel.shard": shard} for shard in range(parallel.shard + 1, 4) if has_replicas]),
        _Kind(_STATE, [_offloaded(recipe)] if has_replicas and not parallel.offload else []),
        _Kind(_PASSING, [{"batch.micro_batch": size} for size in _halves(known(recipe.batch.micro_batch))]),
        _Kind(frozenset(Part), [_grown(recipe, "tensor", size) for size in _doubles(parallel.tensor, per_node)]),
        _Kind(
            frozenset(Part),
            [_grown(recipe, "pipeline", size) for size in _doubles(parallel.pipeline, processes_of(recipe))],
        ),
    ]


def _more_recompute(recipe: Recipe) -> list[Settings]:
    training, kinds = recipe.training, ("none", "selective", "full")
    stronger = list(kinds[kinds.index(training.recompute) + 1 :])
    if training.recompute != "none" and training.recompute_layers != "all":
        stronger.insert(0, training.recompute)
    all_of_them = {} if training.recompute_layers == "all" else {"training.recompute_layers": "all"}
    return [{"training.recompute": kind, **all_of_them} for kind in stronger]


def _offloaded(recipe: Recipe) -> Settings:
    """Only what is sharded can leave the GPU."""
    sharded = {} if recipe.parallel.shard >= 2 else {"parallel.shard": 3}
    return {**sharded, "parallel.offload": True}


def _halves(size: int) -> list[int]:
    return [size >> times for times in range(1, size.bit_length()) if size % (1 << times) == 0]


def _doubles(size: int, most: int) -> list[int]:
    return [size << times for times in range(1, 12) if size << times <= most]


def _grown(recipe: Recipe, axis: str, size: int) -> Settings:
    """More of one axis at the price of replicas; their number is 0 where there are too few, which no rule allows."""
    parallel = recipe.parallel
    factor = size // getattr(parallel, axis)
    data, rest = divmod(known(parallel.data), factor)
    counted = axis == "pipeline" and parallel.layers_per_stage != "balanced"
    balanced = {"parallel.layers_per_stage": "balanced"} if counted else {}
    return {f"parallel.{axis}": size, "parallel.data": 0 if rest else data, **balanced}


def _changed(recipe: Recipe, settings: Settings) -> Recipe | None:
    """None where the recipe's rules refuse it."""
    if settings.get("parallel.data") == 0:
        return None
    sections: dict[str, dict[str, Any]] = {}
    for key, value in settings.items():
        section, name = key.split(".")
        sections.setdefault(section, {})[name] = value
    update = {name: getattr(recipe, name).model_copy(update=values) for name, values in sections.items()}
    changed = recipe.model_copy(update=update)
    return None if misfits(changed, processes_of(recipe), vocabulary=None) else changed


def _needed(recipe: Recipe, room: int) -> int | None:
    """None as soon as one of the stages does not fit."""
    fullest = 0
    for stage in traced_stages(recipe.parallel.pipeline):
        fullest = max(fullest, memory_of(recipe, stage).total)
        if fullest > room:
            return None
    return fullest


def _typed(settings: Settings) -> tuple[str, ...]:
    return tuple(f"{key}={str(value).lower() if value is True else value}" for key, value in settings.items())

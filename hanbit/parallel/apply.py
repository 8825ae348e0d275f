"""The order in which a model becomes parallel. Each step relies on the one before it.

cut layers   by pipeline stage, several in a process where it has several, on the meta device: others take no memory
cut weights  by the plan's words over the tensor axis; names and pieces are recorded
swap leaves  the modules that sum over the tensor axis; routers and experts, which exchange rows over the expert axis
FP8, recompute, compile   block by block, so that one graph serves all layers
FSDP2        experts first, then blocks, then the stage: after compile, so that hooks stay outside the graphs
allocate     on the device, then tie again: replacing a parameter unties it
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from torch import nn

from hanbit.models.layers.attend import MakeAttend
from hanbit.models.plan import Plan
from hanbit.parallel.context import causal_over
from hanbit.parallel.experts import NO_ROUTER_LOSSES, RouterCoefficients, RouterLosses, losses_of, swap_experts
from hanbit.parallel.fp8 import compute_in_fp8
from hanbit.parallel.grid import Axis, Grid
from hanbit.parallel.holders import axes_of, holders_of, ranges
from hanbit.parallel.objectives import Objective, Vocabulary
from hanbit.parallel.pieces import Piece, cut_by_data, cut_rows, local_tensor
from hanbit.parallel.recompute import NO_RECOMPUTE, Recompute, chosen, recompute
from hanbit.parallel.schedules import ScheduleName, stage_numbers
from hanbit.parallel.shard import shard_over_data
from hanbit.parallel.split import layers_per_stage
from hanbit.parallel.stage import Stage, cut_layers, untie_ends
from hanbit.parallel.tensor import cut_parameters, is_partial, swap_leaves


@dataclass(frozen=True)
class Options:
    """`shard`: 0 whole replicas, 1 the optimizer sharded, 2 gradients too, 3 parameters too.

    offload: what is sharded lies in the CPU's memory. virtual: stages of each process. layers_per_stage: None for
    balanced ones.
    router: weights of the routers' losses, where there are experts.
    """

    shard: Literal[0, 1, 2, 3] = 0
    offload: bool = False
    recompute: Recompute = NO_RECOMPUTE
    compile: bool = False
    schedule: ScheduleName = "1f1b"
    virtual: int = 1
    layers_per_stage: tuple[int, ...] | None = None
    router: RouterCoefficients = NO_ROUTER_LOSSES
    fp8: bool = False


@dataclass(frozen=True)
class ParallelModel:
    """This process's part of a model. `parameters` and `pieces` go by the names of the whole model.

    updated: of each piece, what this process has the moments of and updates; less than the piece with `shard` 1.
    twins: the last stage's copies of tied weights whose originals are in this process too; they take their value
    before each pass (`copy_twins`) and give their gradient after it.
    """

    stages: tuple[Stage, ...]
    grid: Grid
    parameters: dict[str, nn.Parameter]
    pieces: dict[str, Piece]
    updated: dict[str, Piece]
    shared_names: tuple[str, ...]  # whole weights that each tensor rank uses on its own heads or part of the sequence
    held: dict[str, Axis]  # weights that other processes of the pipeline hold, too, and those processes
    twins: dict[str, nn.Parameter]
    schedule: ScheduleName
    expert_names: tuple[str, ...] = ()  # stacks of experts, of which peers on the expert axis hold others
    router_losses: RouterLosses | None = None

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that learn; the others are a frozen base's."""
        return {name: parameter for name, parameter in self.parameters.items() if parameter.requires_grad}

    @property
    def learning(self) -> list[nn.Parameter]:
        """All that gather gradients here, in the order of their use: twins too."""
        return [parameter for stage in self.stages for parameter in stage.parameters() if parameter.requires_grad]

    def copy_twins(self) -> None:
        with torch.no_grad():
            for name, twin in self.twins.items():
                local_tensor(twin).copy_(local_tensor(self.parameters[name]))

    def fill(self, full_tensor: Callable[[str, tuple[int, ...]], torch.Tensor]) -> None:
        """Set every parameter from `full_tensor(name, shape)`, which gives the whole tensor; one is alive at a time."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                piece = self.pieces[name]
                local_tensor(parameter).copy_(full_tensor(name, piece.shape)[piece.slices])


def parallelize(
    model: nn.Module,
    plan: Plan,
    units: dict[str, int],
    grid: Grid,
    make_attend: MakeAttend,
    objective: Objective,
    options: Options,
) -> ParallelModel:
    """Cut `model`, whole and on the meta device, to this process. Its numbers are not set: call `fill`.

    make_attend: called with each micro-batch. objective: the last stage's loss.
    """
    tied = plan.tied if _is_tied(model, plan) else ()
    if grid.context.size > 1:
        make_attend = causal_over(grid.context)
    if tied and grid.pipeline.size > 1:
        untie_ends(model, plan)
    router_losses = losses_of(model, options.router, grid.device)
    numbers = stage_numbers(options.schedule, options.virtual, grid.pipeline)
    sizes = options.layers_per_stage or layers_per_stage(model, plan, options.virtual * grid.pipeline.size)
    held: dict[str, Axis] = {}
    if plan.used_by is not None:  # several weights in several places; others have at most their two ends tied
        held = axes_of(holders_of(model, plan, tied, ranges(sizes)), grid)
    models = [model if len(numbers) == 1 else copy.deepcopy(model) for _ in numbers]
    stages: list[Stage] = []
    pieces: dict[str, Piece] = {}
    for number, part in zip(numbers, models, strict=True):
        cut_layers(part, plan, sizes, number)
        cut = cut_parameters(part, plan, units, grid.tensor, grid.expert)
        _tie(part)
        swap_experts(part, grid, router_losses)
        swap_leaves(part, plan, cut, grid.tensor)
        vocabulary = Vocabulary(grid.tensor, _first_id(cut))
        is_last, layers = number == len(sizes) - 1, ranges(sizes)[number]
        stage = Stage(part, make_attend, objective, vocabulary, is_last, number, layers, grid.context)
        _prepare_blocks(part, plan, options)
        if options.shard >= 2 and grid.replicas.size > 1:
            shard_over_data(stage, plan, grid, options.shard == 3, options.offload)
        stage.to_empty(device="cpu" if options.offload else grid.device)
        _tie(part)
        stages.append(stage)
        pieces |= cut
    described = _described(tuple(stages), plan, grid, pieces, tied, options, held)
    return replace(described, router_losses=router_losses)


def _described(
    stages: tuple[Stage, ...],
    plan: Plan,
    grid: Grid,
    pieces: dict[str, Piece],
    tied: tuple[tuple[str, str], ...],
    options: Options,
    held: dict[str, Axis],
) -> ParallelModel:
    """Names: a tied copy on another stage goes by its original's name, so that files hold the weight once."""
    original_of = dict(tied) if grid.pipeline.size > 1 else {}
    parameters: dict[str, nn.Parameter] = {}
    final: dict[str, Piece] = {}
    updated: dict[str, Piece] = {}
    twins: dict[str, nn.Parameter] = {}
    for local_name, parameter in [pair for stage in stages for pair in stage.model.named_parameters()]:
        name = original_of.get(local_name, local_name)
        if name in parameters:
            twins[name] = parameter
            continue
        parameters[name] = parameter
        same = grid.expert_replicas if plan.rule_of(name).is_stack else grid.replicas
        piece = replace(pieces[local_name], name=name)
        final[name] = cut_by_data(piece, parameter, same)
        updated[name] = cut_rows(piece, same) if options.shard == 1 else final[name]
    if plan.used_by is None:
        originals = set(original_of.values())
        held = {name: grid.ends for name in parameters if name in originals and name not in twins}
    for found in (final, updated):
        found |= {name: found[name].shared_by(axis) for name, axis in held.items()}
    shared = tuple(name for name in parameters if is_partial(name, plan, final[name], grid.tensor))
    experts = tuple(name for name in parameters if plan.rule_of(name).is_stack)
    return ParallelModel(stages, grid, parameters, final, updated, shared, held, twins, options.schedule, experts)


def _is_tied(model: nn.Module, plan: Plan) -> bool:
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return any(parameters[copy] is parameters[original] for copy, original in plan.tied)


def _tie(model: nn.Module) -> None:
    cast(Any, model).tie()


def _first_id(pieces: dict[str, Piece]) -> int:
    piece = pieces.get("output.weight")
    return piece.offset[0] if piece else 0


def _prepare_blocks(model: nn.Module, plan: Plan, options: Options) -> None:
    blocks = list(cast(nn.ModuleDict, getattr(model, plan.repeat)).values())
    if options.fp8:
        for block in blocks:
            compute_in_fp8(block)
    for block in chosen(blocks, options.recompute):
        recompute(block, options.recompute.kind)
    if options.compile:
        for block in blocks:
            block.compile()

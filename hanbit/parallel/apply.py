"""The order in which a model becomes parallel. Each step relies on the one before it.

cut layers   by pipeline stage, on the meta device: nothing is allocated for other stages
cut weights  by the plan's words over the tensor axis; names and pieces are recorded
swap leaves  the modules that sum over the tensor axis
recompute, compile   block by block, so that one graph serves all layers
FSDP2        blocks first, then the stage: after compile, so that hooks stay outside the graphs
allocate     on the device, then tie again: replacing a parameter unties it
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard

from hanbit.models.layers.attend import MakeAttend
from hanbit.models.plan import Plan, Word
from hanbit.parallel.grid import Grid
from hanbit.parallel.objectives import Objective, Vocabulary
from hanbit.parallel.pieces import Piece, cut_by_data, local_tensor
from hanbit.parallel.recompute import recompute_whole
from hanbit.parallel.stage import Stage, cut_layers, untie_ends
from hanbit.parallel.tensor import cut_parameters, swap_leaves


@dataclass(frozen=True)
class Options:
    """`shard`: 0 whole replicas, 2 gradients and optimizer sharded, 3 parameters too."""

    shard: Literal[0, 2, 3] = 0
    recompute: bool = False
    compile: bool = False


@dataclass(frozen=True)
class ParallelModel:
    """This process's part of a model. `parameters` and `pieces` go by the names of the whole model."""

    stage: Stage
    grid: Grid
    parameters: dict[str, nn.Parameter]
    pieces: dict[str, Piece]
    shared_names: tuple[str, ...]  # whole weights that each tensor rank uses on its own heads
    tied_names: tuple[str, ...]  # weights that the first and the last stage both hold

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that learn; the others are a frozen base's."""
        return {name: parameter for name, parameter in self.parameters.items() if parameter.requires_grad}

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
    if tied:
        untie_ends(model, plan, grid.pipeline)
    cut_layers(model, plan, grid.pipeline)
    pieces = cut_parameters(model, plan, units, grid.tensor)
    _tie(model)
    swap_leaves(model, plan, pieces, grid.tensor)
    vocabulary = Vocabulary(grid.tensor, _first_id(model, pieces))
    stage = Stage(model, make_attend, objective, vocabulary, grid.pipeline.is_last)
    _prepare_blocks(model, plan, options)
    if options.shard and grid.replicas.size > 1:
        _shard_over_data(stage, plan, grid, options)
    stage.to_empty(device=grid.device)
    _tie(model)
    return _described(stage, plan, grid, pieces, tied)


def _described(
    stage: Stage, plan: Plan, grid: Grid, pieces: dict[str, Piece], tied: tuple[tuple[str, str], ...]
) -> ParallelModel:
    """Names: a tied copy on another stage goes by its original's name, so that files hold the weight once."""
    original_of = dict(tied) if grid.pipeline.size > 1 else {}
    parameters, final = {}, {}
    for local_name, parameter in stage.model.named_parameters():
        name = original_of.get(local_name, local_name)
        piece = cut_by_data(pieces[local_name], parameter, grid.replicas)
        piece = Piece(name, piece.shape, piece.offset, piece.size, piece.copies, piece.writes)
        parameters[name] = parameter
        final[name] = piece.shared_by(grid.ends) if name in original_of.values() else piece
    shared = tuple(name for name in parameters if plan.rule_of(name).word is Word.SHARED)
    tied_here = tuple(name for name in parameters if name in original_of.values())
    return ParallelModel(stage, grid, parameters, final, shared, tied_here)


def _is_tied(model: nn.Module, plan: Plan) -> bool:
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return any(parameters[copy] is parameters[original] for copy, original in plan.tied)


def _tie(model: nn.Module) -> None:
    cast(Any, model).tie()


def _first_id(model: nn.Module, pieces: dict[str, Piece]) -> int:
    piece = pieces.get("output.weight")
    return piece.offset[0] if piece else 0


def _prepare_blocks(model: nn.Module, plan: Plan, options: Options) -> None:
    for block in cast(nn.ModuleDict, getattr(model, plan.repeat)).values():
        if options.recompute:
            recompute_whole(block)
        if options.compile:
            block.compile()


def _shard_over_data(stage: Stage, plan: Plan, grid: Grid, options: Options) -> None:
    """FSDP2 over the replicas; gradients are summed, never averaged: the loss is already over the global batch."""
    assert grid.mesh is not None
    settings: dict[str, Any] = {"mesh": grid.mesh["replicas"], "reshard_after_forward": options.shard == 3}
    for block in cast(nn.ModuleDict, getattr(stage.model, plan.repeat)).values():
        fully_shard(block, **settings)
    fully_shard(stage, mesh=grid.mesh["replicas"], reshard_after_forward=False)
    for module in stage.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)

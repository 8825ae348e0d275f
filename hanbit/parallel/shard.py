"""FSDP2 over replicas (Zhao et al., arXiv 2304.11277): each has a part of every weight, gradient and moment.

Gradients are summed, never averaged: the loss is already over the global batch. Experts are shared out to those
replicas that hold the same ones; where each is held once, FSDP2 leaves them alone.
"""

from typing import Any, cast

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, fully_shard

from hanbit.models.layers.experts import Experts
from hanbit.models.plan import Plan
from hanbit.parallel.grid import Grid
from hanbit.parallel.shard_clock import put_on_clock
from hanbit.parallel.stage import Stage


def shard_over_data(stage: Stage, plan: Plan, grid: Grid, reshard: bool, offload: bool) -> None:
    """Inner modules before outer ones. reshard: a block's weights are gathered for its forward and again for backward.

    offload: our part of all that lies in the CPU's memory, and the update runs there.
    """
    assert grid.mesh is not None
    settings: dict[str, Any] = {"mesh": grid.mesh["replicas"]}
    if offload:
        settings["offload_policy"] = CPUOffloadPolicy(pin_memory=grid.device.type == "cuda")
    if grid.expert.size > 1:
        settings["ignored_params"] = _shard_experts(stage, grid, reshard, settings)
    for block in cast(nn.ModuleDict, getattr(stage.model, plan.repeat)).values():
        fully_shard(block, reshard_after_forward=reshard, **settings)
    fully_shard(stage, reshard_after_forward=False, **settings)
    for module in stage.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
            put_on_clock(module)


def _shard_experts(stage: Stage, grid: Grid, reshard: bool, settings: dict[str, Any]) -> set[nn.Parameter]:
    """Over the replicas that hold the same ones. Returns the parameters of experts that no other holds."""
    assert grid.mesh is not None
    stacks = [module for module in stage.modules() if isinstance(module, Experts)]
    group = grid.expert_replicas.group
    if group is None:
        return {parameter for stack in stacks for parameter in stack.parameters()}
    mesh = DeviceMesh.from_group(group, grid.mesh.device_type)  # the model may be cut on meta, as in a dry run
    for stack in stacks:
        fully_shard(stack, reshard_after_forward=reshard, **{**settings, "mesh": mesh})
    return set()

"""One door: the module that FSDP2 and the pipeline schedule act on, and the only caller of a model's parts.

A stage holds the part of a model that one process computes: all of it, or some layers, with the embedding on the
first stage and the head on the last. Its output is the hidden state, or on the last stage the summed loss.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn

from hanbit.models.plan import Plan
from hanbit.parallel.grid import Axis
from hanbit.parallel.loss import next_token_loss
from hanbit.parallel.pieces import share

Attend = Callable[[int], Callable[..., torch.Tensor]]


class Stage(nn.Module):
    """`model`: a family's module, cut to this stage. `first_id`: the first token id of our part of the head.

    has_ignored: targets below 0 are of tokens that no one learns to say, and may be there.
    """

    def __init__(
        self,
        model: nn.Module,
        attend: Attend,
        pipeline: Axis,
        tensor: Axis,
        first_id: int = 0,
        has_ignored: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.attend = attend
        self.pipeline = pipeline
        self.tensor = tensor
        self.first_id = first_id
        self.has_ignored = has_ignored

    def forward(self, inputs: torch.Tensor, targets: torch.Tensor | None = None) -> torch.Tensor:
        """inputs: token ids [batch, time] on the first stage, else hidden [batch, time, hidden]; targets: as ids.

        Returns hidden [batch, time, hidden], or on the last stage the summed loss as [1] (so that micro-batches join).
        """
        model = cast(Any, self.model)
        positions = torch.arange(inputs.shape[1], device=inputs.device)
        hidden = model.embed(inputs, positions) if self.pipeline.is_first else inputs
        hidden = model.trunk(hidden, positions, self.attend)
        if not self.pipeline.is_last:
            return hidden
        assert targets is not None, "the last stage needs targets"
        hidden, weight = model.final(hidden), model.output.weight
        return next_token_loss(hidden, weight, targets, self.tensor, self.first_id, self.has_ignored).reshape(1)


def cut_layers(model: nn.Module, plan: Plan, pipeline: Axis) -> None:
    """Leave only this stage's modules; layers keep their global index as name."""
    layers = cast(nn.ModuleDict, getattr(model, plan.repeat))
    start, count = share(len(layers), pipeline)
    for key in [key for key in layers if not start <= int(key) < start + count]:
        del layers[key]
    for names, wanted in ((plan.first, pipeline.is_first), (plan.last, pipeline.is_last)):
        for name in names:
            if not wanted and hasattr(model, name):
                delattr(model, name)


def untie_ends(model: nn.Module, plan: Plan, pipeline: Axis) -> None:
    """Over stages a tied weight is two copies with one start value, never one object."""
    if pipeline.size == 1:
        return
    for copy, _ in plan.tied:
        module_name, short = copy.rsplit(".", 1)
        module = model.get_submodule(module_name)
        weight = getattr(module, short)
        module.register_parameter(short, nn.Parameter(torch.empty_like(weight), weight.requires_grad))

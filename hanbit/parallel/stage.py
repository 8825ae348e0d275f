"""Pipeline stages: which layers this process has, and the one door through which they are called.

FSDP2 and the pipeline act on `forward` alone, so a stage's whole work is one call. A stage of the pipeline is the
part of a family's module that one process computes: all of it, or some layers, with the embedding on the
first stage and the head on the last. Its output is what the next stage carries on, or on the last one the summed loss.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn

from hanbit.models.layers.attend import MakeAttend
from hanbit.models.plan import Plan
from hanbit.parallel.context import own_part
from hanbit.parallel.grid import ALONE, Axis
from hanbit.parallel.holders import modules_by_layers, ranges
from hanbit.parallel.objectives import Carried, Objective, Vocabulary


class Stage(nn.Module):
    """`model`: a family's module, cut to this stage, the `number`-th; `objective` is called by the last one only.

    `make_attend` is given the whole micro-batch, the model and the objective our part of its sequences.
    """

    def __init__(
        self,
        model: nn.Module,
        make_attend: MakeAttend,
        objective: Objective,
        vocabulary: Vocabulary,
        is_last: bool = True,
        number: int = 0,
        layers: range = range(0),
        context: Axis = ALONE,
    ) -> None:
        super().__init__()
        self.number, self.layers = number, layers
        self.model = model
        self.make_attend = make_attend
        self.objective = objective
        self.vocabulary = vocabulary
        self.is_last = is_last
        self.context = context

    def forward(self, *carried: torch.Tensor, **batch: torch.Tensor) -> torch.Tensor | Carried:
        """carried: from the stage before, e.g. hidden [sequences, time, hidden]; none on the first one.

        Returns what is carried on, or on the last stage the summed loss as [1] (so that micro-batches join).
        """
        attend, batch = self.make_attend(batch), own_part(batch, self.context)
        carried = cast(Any, self.model).advance(carried, batch, attend)
        if not self.is_last:
            return carried
        loss = self.objective.loss(self.model, carried, batch, self.vocabulary)
        return loss.reshape(1).clone()  # of a view FSDP2 warns, and a pipeline cannot take it off its graph


def cut_layers(model: nn.Module, plan: Plan, sizes: Sequence[int], number: int) -> None:
    """Leave only the modules of stage `number`, with sizes[number] layers; these keep their global index as name."""
    layers, used = cast(nn.ModuleDict, getattr(model, plan.repeat)), modules_by_layers(model, plan)
    here = ranges(sizes)[number]
    for key in [key for key in layers if int(key) not in here]:
        del layers[key]
    for name, users in used.items():
        if not any(user in here for user in users):
            delattr(model, name)


def untie_ends(model: nn.Module, plan: Plan) -> None:
    """Over stages a tied weight is two copies with one start value, never one object, in one process neither."""
    for copy, _ in plan.tied:
        module_name, short = copy.rsplit(".", 1)
        module = model.get_submodule(module_name)
        weight = getattr(module, short)
        module.register_parameter(short, nn.Parameter(torch.empty_like(weight), weight.requires_grad))

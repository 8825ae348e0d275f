"""What AWQ has folded into norms and biases, judged without its factors, by what a model computes.

A norm's number and the column of the matrices behind it are only ever multiplied, so are a bias of the matrix before
and the column behind: a factor that went from one to the other leaves the product, up to the rounding of the matrix.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from hanbit.models.layers.norm import ShiftedRMSNorm
from hanbit.quantize.groups import Scheme

# What is folded -> the matrices behind it, the first of these that a model has. Not matrices whose own rows are folded.
_BEHIND = {
    "attention_norm": (("attention.query", "attention.key"),),
    "mlp_norm": (("mlp.gate",), ("mlp.up",)),
    "attention.value": (("attention.output",),),
    "mlp.up": (("mlp.down",),),
}
_MOST_STEPS = 0.75  # root mean square over a column; rounding to nearest gives 0.29, a group that is cut a bit more
_LEAST_STEP = 2.0**-22  # where all of a group is too small for fp16


@dataclass(frozen=True)
class Folded:
    """Tensors of both models by our names; `schemes` of those that are in blocks. `model` needs no numbers."""

    model: torch.nn.Module
    source: Mapping[str, torch.Tensor]
    target: Mapping[str, torch.Tensor]
    schemes: Mapping[str, Scheme]

    def is_right(self, name: str) -> bool:
        """Is the target's tensor `name`, which is not rounded, the source's, or has it given a factor for each number
        to the matrices behind it, which have taken it?"""
        wanted, found = self.source[name], self.target[name]
        if torch.equal(wanted.to(found.dtype), found):
            return True
        layer, _, part = name.rpartition(".")
        matrices = self._behind(layer)
        if not matrices or part not in ("weight", "bias"):
            return False
        shift = 1.0 if part == "weight" and isinstance(self.model.get_submodule(layer), ShiftedRMSNorm) else 0.0
        before, after = wanted.float() + shift, found.float() + shift
        if found.dim() == 2:  # a matrix that is not in blocks: each row has its factor
            before, after = torch.ones(len(found)), _factors(before, after, 8 * torch.finfo(found.dtype).eps)
        return all(self._is_same_product(one, before, after) for one in matrices)

    def _behind(self, layer: str) -> list[str]:
        """Those in blocks: others take no factor."""
        index = ".".join(layer.split(".")[:2])
        choices = _BEHIND.get(layer.removeprefix(f"{index}."), ())
        names = ([f"{index}.{name}.weight" for name in choice] for choice in choices)
        return next((choice for choice in names if all(name in self.schemes for name in choice)), [])

    def _is_same_product(self, name: str, before: torch.Tensor, after: torch.Tensor) -> bool:
        """before, after: what the columns of matrix `name` are multiplied with, float32 [columns]."""
        numbers, scheme = self.target[name].float(), self.schemes[name]
        gap = numbers * after - self.source[name].float() * before
        bound = _steps(numbers, scheme).square().mean(0).sqrt() * after.abs() * _MOST_STEPS
        return bool((gap.square().mean(0).sqrt() <= bound).all())


def _factors(before: torch.Tensor, after: torch.Tensor, tolerance: float) -> torch.Tensor:
    """[rows]: what each row has been multiplied with; NaN, which is no product's, where that is not all."""
    below = before.square().sum(1)
    found = torch.where(below > 0, (before * after).sum(1) / below, 1.0)
    rest = after - before * found.unsqueeze(1)
    return torch.where(rest.abs().amax(1) <= tolerance * after.abs().amax(1), found, torch.nan)


def _steps(numbers: torch.Tensor, scheme: Scheme) -> torch.Tensor:
    """Between two codes, about, of each number's group; [rows, columns]. Codes reach both ends, or nearly."""
    groups = numbers.unflatten(1, (-1, scheme.group))
    low, high = groups.aminmax(dim=-1)
    codes = scheme.codes[1] - scheme.codes[0] - 2
    width = 2 * torch.maximum(high, -low) if scheme.is_symmetric else high - low
    return (width / codes).clamp(min=_LEAST_STEP).repeat_interleave(scheme.group, 1)

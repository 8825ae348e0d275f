"""The engine's way to the native kernels (docs/kernels.md): float32 on a CPU, at most `MOST_ROWS` rows at a time.

A linear layer for any model; a whole step of a llama-shaped one in a single call is native_step.py.
"""

import ctypes

import torch
from torch import nn
from torch.nn import functional as F

from hanbit.kernels import structs
from hanbit.kernels.blocks import Kind
from hanbit.kernels.library import MOST_ROWS, native

_LINE = 16  # float32 in a line of a processor's cache


class NativeLinear(nn.Module):
    """The linear layers `parts` side by side, as one. The weight is [out, in] as torch has it, for longer prompts."""

    def __init__(self, *parts: nn.Linear) -> None:
        super().__init__()
        self.out_features = sum(part.out_features for part in parts)
        weights = [part.weight.detach() for part in parts]
        self.weight = torch.cat(weights) if len(parts) > 1 else weights[0].contiguous()
        has_bias = parts[0].bias is not None
        self.bias = torch.cat([part.bias.detach() for part in parts]) if has_bias else None

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden [..., in] -> [..., out]."""
        rows = hidden.reshape(-1, hidden.shape[-1])
        kernels = native()
        if not 0 < len(rows) <= MOST_ROWS or kernels is None:
            return F.linear(hidden, self.weight, self.bias)
        rows, output = rows.contiguous(), hidden.new_empty(len(rows), self.out_features)
        kernels.library.hanbit_linear(
            kernels.kernels,
            ctypes.byref(struct_of(self)),
            rows.data_ptr(),
            len(rows),
            output.data_ptr(),
            torch.get_num_threads(),
        )
        return output.view(*hidden.shape[:-1], -1)


def struct_of(linear: NativeLinear) -> structs.Linear:
    bias = None if linear.bias is None else linear.bias.data_ptr()
    return structs.linear(linear.weight.shape[1], [matrix_of(linear.weight)], bias)


def matrix_of(weight: torch.Tensor) -> structs.Matrix:
    """weight [out, in] float32."""
    return structs.Matrix(weight.data_ptr(), Kind.FLOAT32, len(weight))


def gather(model: nn.Module) -> None:
    """Move the weights of all native layers into one piece of memory, in the order they are read, on huge pages."""
    kernels, layers = native(), [module for module in model.modules() if isinstance(module, NativeLinear)]
    if kernels is None or not layers:
        return
    sizes = [-(-layer.weight.numel() // _LINE) * _LINE for layer in layers]
    memory = torch.empty(sum(sizes), dtype=torch.float32, device="cpu")  # whatever the defaults are
    kernels.library.hanbit_use_huge_pages(memory.data_ptr(), memory.nbytes)
    for layer, part in zip(layers, memory.split(sizes), strict=True):
        weight = part[: layer.weight.numel()].view_as(layer.weight)
        layer.weight = weight.copy_(layer.weight)  # the old one is let go here: no second model in memory


def largest(logits: torch.Tensor) -> int | None:
    """Place of the first of the largest of logits [vocabulary]; None where one is NaN or the largest not finite.

    Natively on a CPU, also because torch shares out rows this long: its threads would spin on after it for
    milliseconds, on the cores that the next step needs.
    """
    kernels = native()
    if kernels is not None and logits.dtype == torch.float32 and logits.device.type == "cpu" and logits.is_contiguous():
        place = kernels.library.hanbit_largest(kernels.kernels, logits.data_ptr(), len(logits))
        return None if place < 0 else int(place)
    return int(logits.argmax()) if bool(logits.max().isfinite()) else None  # max hands NaN on

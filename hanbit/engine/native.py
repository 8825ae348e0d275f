"""The engine's way to the native kernels (docs/kernels.md): a linear layer for any model, float32 inside, on a CPU.

Its matrices are plain floats, for at most `MOST_ROWS` rows at a time (longer products are PyTorch's), or in blocks as
read (as_stored.py), for any number of rows. A whole step of a llama-shaped model in a single call is native_step.py.
"""

import ctypes
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from hanbit.kernels import structs
from hanbit.kernels.blocks import FLOATS, Kind
from hanbit.kernels.library import MOST_ROWS, native

_MOST_ROWS_OF_HALVES = 32  # beyond, making a float32 matrix for PyTorch is worth it
_LINE = 64  # bytes in a line of a processor's cache
FLOAT_KINDS = {torch.float32: Kind.FLOAT32, torch.float16: Kind.FLOAT16, torch.bfloat16: Kind.BFLOAT16}


@dataclass
class Matrix:
    """data: floats [outputs, inputs] of the dtype that `kind` says, or panels of blocks, uint8 [bytes]. Contiguous."""

    kind: Kind
    outputs: int
    data: torch.Tensor

    def struct(self) -> structs.Matrix:
        return structs.Matrix(self.data.data_ptr(), self.kind, self.outputs)


class BlockLinear(nn.Module):
    """Stands for nn.Linear in a model that is being put together (as_stored.py), until `fuse` takes its matrix."""

    def __init__(self, matrix: Matrix, inputs: int, bias: torch.Tensor | None = None) -> None:
        super().__init__()
        self.matrix, self.in_features, self.out_features, self.bias = matrix, inputs, matrix.outputs, bias


class NativeLinear(nn.Module):
    """The linear layers `parts` (nn.Linear, BlockLinear) side by side, as one."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        assert all(isinstance(part, nn.Linear | BlockLinear) for part in parts)
        self.in_features = int(parts[0].in_features)  # type: ignore[arg-type]
        self.matrices = _matrices(parts)
        self.out_features = sum(matrix.outputs for matrix in self.matrices)
        biases = [part.bias.detach() for part in parts if isinstance(part.bias, torch.Tensor)]
        assert len(biases) in (0, len(parts))
        self.bias = torch.cat(biases) if biases else None

    @property
    def weight(self) -> torch.Tensor:
        """[out, in] as torch has it, float32; only of a layer of plain floats. Of 16 bits it is made each time."""
        assert self.is_float
        return self.matrices[0].data.float()

    @property
    def is_float(self) -> bool:
        return len(self.matrices) == 1 and self.matrices[0].kind in FLOATS

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden [..., in] -> [..., out]."""
        rows = hidden.reshape(-1, hidden.shape[-1])
        kernels = native()
        most = MOST_ROWS if self.matrices[0].kind == Kind.FLOAT32 else _MOST_ROWS_OF_HALVES
        if self.is_float and (not 0 < len(rows) <= most or kernels is None):
            return F.linear(hidden, self.weight, self.bias)
        assert kernels is not None
        rows, output = rows.contiguous(), hidden.new_empty(len(rows), self.out_features)
        kernels.library.hanbit_linear(
            kernels.kernels,
            ctypes.byref(self.struct()),
            rows.data_ptr(),
            len(rows),
            output.data_ptr(),
            torch.get_num_threads(),
        )
        return output.view(*hidden.shape[:-1], -1)

    def struct(self) -> structs.Linear:
        bias = None if self.bias is None else self.bias.data_ptr()
        return structs.linear(self.in_features, [matrix.struct() for matrix in self.matrices], bias)


class NativeEmbedding(nn.Module):
    """Looks tokens up in the rows of a layer's only matrix: a tied output projection's, or its own."""

    def __init__(self, linear: NativeLinear) -> None:
        super().__init__()
        self.linear = linear

    def struct(self) -> structs.Matrix:
        return self.linear.matrices[0].struct()

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """tokens [...] int64 -> [..., hidden] float32."""
        kernels, indices = native(), tokens.reshape(-1).contiguous()
        assert kernels is not None
        assert not len(indices) or 0 <= indices.min() <= indices.max() < self.linear.out_features
        found = torch.empty(len(indices), self.linear.in_features, dtype=torch.float32, device="cpu")
        kernels.library.hanbit_take_rows(
            kernels.kernels,
            ctypes.byref(self.struct()),
            self.linear.in_features,
            indices.data_ptr(),
            len(indices),
            found.data_ptr(),
        )
        return found.view(*tokens.shape, -1)


def _matrices(parts: tuple[nn.Module, ...]) -> list[Matrix]:
    """Plain floats of a dtype that follow each other become one."""
    found: list[Matrix] = []
    for part in parts:
        if isinstance(part, BlockLinear):
            matrix = part.matrix
        else:
            assert isinstance(part, nn.Linear)
            matrix = Matrix(Kind.FLOAT32, len(part.weight), part.weight.detach().contiguous())
        if found and matrix.kind in FLOATS and matrix.kind == found[-1].kind:
            joined = torch.cat((found.pop().data, matrix.data))
            matrix = Matrix(matrix.kind, len(joined), joined)
        found.append(matrix)
    return found


def weight_bytes(model: nn.Module) -> int:
    """What native products of a token read; of a table of embeddings that is no output projection it reads a row."""
    layers = {module for module in model.modules() if isinstance(module, NativeLinear)}
    tables = {module.linear for module in model.modules() if isinstance(module, NativeEmbedding)}
    used = layers - (tables - {getattr(model, "output", None)})
    return sum(matrix.data.nbytes for layer in used for matrix in layer.matrices)


def gather(model: nn.Module) -> None:
    """Move the weights of all native layers into one piece of memory, in the order they are read, on huge pages."""
    kernels, layers = native(), [module for module in model.modules() if isinstance(module, NativeLinear)]
    if kernels is None or not layers:
        return
    matrices = [matrix for layer in layers for matrix in layer.matrices]
    sizes = [-(-matrix.data.nbytes // _LINE) * _LINE for matrix in matrices]
    memory = torch.empty(sum(sizes), dtype=torch.uint8, device="cpu")
    kernels.library.hanbit_use_huge_pages(memory.data_ptr(), memory.nbytes)
    for matrix, part in zip(matrices, memory.split(sizes), strict=True):
        place = part[: matrix.data.nbytes].view(matrix.data.dtype).view_as(matrix.data)
        matrix.data = place.copy_(matrix.data)  # the old one is let go here: no second model in memory


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

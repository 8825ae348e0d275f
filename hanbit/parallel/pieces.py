"""Which piece of which global tensor a parameter of this process is.

A piece is a box: offset and size in every dim of the global shape. Tensor parallelism cuts it first (by the plan's
words), FSDP2 then cuts dim 0 of what is left. Moments are of the piece that a process updates, which may be less.
Checkpoints, fresh weights and the gradient norm need nothing else.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from hanbit.models.plan import Rule, Word
from hanbit.parallel.grid import Axis

CUT_DIM = {Word.COLUMN: 0, Word.VOCABULARY: 0, Word.ROW: 1}


@dataclass(frozen=True)
class Piece:
    """`copies`: how many processes hold this very piece. `writes`: we are the one of them that saves it."""

    name: str
    shape: tuple[int, ...]
    offset: tuple[int, ...]
    size: tuple[int, ...]
    copies: int = 1
    writes: bool = True

    @property
    def slices(self) -> tuple[slice, ...]:
        return tuple(slice(start, start + length) for start, length in zip(self.offset, self.size, strict=True))

    def cut(self, dim: int, start: int, length: int) -> "Piece":
        """A part of this piece along `dim`; `start` counts from the piece's own beginning."""
        offset, size = list(self.offset), list(self.size)
        offset[dim] += start
        size[dim] = length
        return replace(self, offset=tuple(offset), size=tuple(size))

    def shared_by(self, axis: Axis) -> "Piece":
        """The same piece, held by every process of the axis; the first of them writes it."""
        return replace(self, copies=self.copies * axis.size, writes=self.writes and axis.is_first)


def whole(name: str, shape: tuple[int, ...]) -> Piece:
    return Piece(name, shape, (0,) * len(shape), shape)


def share(total: int, axis: Axis) -> tuple[int, int]:
    """(start, length) of our part of `total` items; the first ranks take one more where it does not divide."""
    base, extra = divmod(total, axis.size)
    return axis.rank * base + min(axis.rank, extra), base + (axis.rank < extra)


def cut_by_rule(piece: Piece, rule: Rule, units: int, axis: Axis) -> Piece:
    """The tensor-parallel part of a whole parameter, cut in whole units (heads, MLP channels, token ids)."""
    dim = CUT_DIM.get(rule.word)
    if axis.size == 1 or dim is None or (rule.word is Word.ROW and len(piece.shape) == 1):
        return piece.shared_by(axis)
    dim += rule.is_stack
    length, remainder = divmod(piece.shape[dim], units)
    assert remainder == 0, f"{piece.name}: dim {dim} of {piece.shape} is not {units} units"
    start, count = share(units, axis)
    return piece.cut(dim, start * length, count * length)


def cut_by_data(piece: Piece, parameter: nn.Parameter, axis: Axis) -> Piece:
    """The part that FSDP2 leaves here."""
    return cut_rows(piece, axis) if isinstance(parameter, DTensor) else piece.shared_by(axis)


def cut_rows(piece: Piece, axis: Axis) -> Piece:
    """Our part of dim 0 in `torch.chunk`'s way, as FSDP2 has it: the last ranks may hold fewer rows or none."""
    rows = piece.size[0]
    chunk = rows_of_each(rows, axis)
    start = min(axis.rank * chunk, rows)
    return piece.cut(0, start, min(chunk, rows - start))


def rows_of_each(rows: int, axis: Axis) -> int:
    """Of every rank but the last ones."""
    return math.ceil(rows / axis.size)


def local_tensor(parameter: nn.Parameter) -> torch.Tensor:
    """The numbers of a parameter that lie in this process, sharing its memory."""
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter.detach()


def local_gradient(parameter: nn.Parameter) -> torch.Tensor | None:
    gradient = parameter.grad
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient

"""Which tensors of a folder make a quantised matrix, their shapes and dtypes compared before memory is taken.

    AWQ         X.qweight [in, out/8]   X.qzeros [groups, out/8]        X.scales [groups, out]
    GPTQ        X.qweight [in/n, out]   X.qzeros [groups, out/n]        X.scales [groups, out]    X.g_idx [in]
    compressed  X.weight_packed [out, in/n]  X.weight_scale [out, groups]  X.weight_zero_point [out/n, groups]
                X.weight_shape [2]           X.weight_g_idx [in]

n = 32 / bits codes are in an int32. What stands for X.weight is read by unpack.py.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch

from hanbit.common.errors import ModelError
from hanbit.formats.packed.config import AWQ, COMPRESSED, GPTQ, Packing

FLOATS = ("F32", "F16", "BF16")
_INTEGERS = ("I32", "I64")
_PARTS = {
    AWQ: ("qweight", "qzeros", "scales"),
    GPTQ: ("qweight", "qzeros", "scales", "g_idx"),
    COMPRESSED: ("weight_packed", "weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx"),
}
_OPTIONAL = ("g_idx", "weight_zero_point", "weight_g_idx")

Look = Callable[[str], tuple[tuple[int, ...], str]]  # a tensor's name -> shape and safetensors dtype
Read = Callable[[str], torch.Tensor]


@dataclass(frozen=True)
class Layer:
    """parts: what a part is called -> its tensor's name, of those that are there. groups: scales of a row."""

    name: str
    packing: Packing
    bits: int
    rows: int
    columns: int
    groups: int
    parts: Mapping[str, str]


def find_layers(packing: Packing, names: Iterable[str], look: Look, read: Read) -> dict[str, Layer]:
    """The name of each matrix, X.weight -> what makes it. Raises ModelError. `read` is for sizes that are told in a
    tensor."""
    first, *_ = kinds = _PARTS[packing.method]
    there = set(names)
    found = {}
    for name in sorted(there):
        layer, _, part = name.rpartition(".")
        if part != first:
            continue
        parts = {kind: f"{layer}.{kind}" for kind in kinds if f"{layer}.{kind}" in there}
        for kind in kinds:
            if kind not in parts and (kind not in _OPTIONAL or kind in packing.needs):
                raise ModelError(f"{layer}.{kind} is missing beside {name}: the folder is incomplete, copy it again")
        if f"{layer}.weight" in there:
            raise ModelError(f"{layer}.weight is there beside {name}: which of them is meant?")
        found[f"{layer}.weight"] = _checked(_Sizes(f"{layer}.weight", packing, parts, look, read))
    if not found:
        raise ModelError(f"quantization_config says {packing.method}, yet no tensor is called *.{first}")
    return found


@dataclass(frozen=True)
class _Sizes:
    name: str
    packing: Packing
    parts: Mapping[str, str]
    look: Look
    read: Read

    def shape(self, part: str, dims: int, dtypes: tuple[str, ...]) -> tuple[int, ...]:
        shape, dtype = self.look(self.parts[part])
        if len(shape) != dims or dtype not in dtypes or 0 in shape:
            raise ModelError(
                f"{self.parts[part]} is {dtype} {list(shape)}; {self.packing.method} has {' or '.join(dtypes)} of "
                f"{dims} dims there"
            )
        return shape

    def require(self, part: str, shape: tuple[int, ...], dtypes: tuple[str, ...]) -> None:
        if part in self.parts and self.shape(part, len(shape), dtypes) != shape:
            found = list(self.look(self.parts[part])[0])
            raise ModelError(f"{self.parts[part]} has shape {found}, {self.name} asks for {list(shape)}")


def _checked(sizes: _Sizes) -> Layer:
    if sizes.packing.method == COMPRESSED:
        return _compressed(sizes)
    bits = sizes.packing.bits
    assert bits is not None
    in_word = 32 // bits
    packed_rows, packed_columns = sizes.shape("qweight", 2, ("I32",))
    groups, rows = sizes.shape("scales", 2, FLOATS)
    columns = packed_rows if sizes.packing.method == AWQ else packed_rows * in_word
    sizes.require("qzeros", (groups, rows // in_word), ("I32",))
    expected = rows // in_word if sizes.packing.method == AWQ else rows
    if rows % in_word or packed_columns != expected:
        raise ModelError(f"{sizes.parts['qweight']} has {packed_columns} columns, its scales are of {rows} outputs")
    sizes.require("g_idx", (columns,), _INTEGERS)
    return _layer(sizes, bits, rows, columns, groups)


def _compressed(sizes: _Sizes) -> Layer:
    rows, words = sizes.shape("weight_packed", 2, ("I32",))
    of_scales, groups = sizes.shape("weight_scale", 2, FLOATS)
    sizes.require("weight_shape", (2,), _INTEGERS)
    told_rows, columns = sizes.read(sizes.parts["weight_shape"]).tolist()
    bits = next((bits for bits in (4, 8) if words == -(-columns * bits // 32)), None)
    if told_rows != rows or of_scales != rows or bits is None or columns < 1:
        raise ModelError(
            f"{sizes.parts['weight_shape']} says {[told_rows, columns]}, yet {sizes.parts['weight_packed']} is "
            f"{[rows, words]} and {sizes.parts['weight_scale']} {[of_scales, groups]}"
        )
    sizes.require("weight_zero_point", (-(-rows * bits // 32), groups), ("I32",))
    sizes.require("weight_g_idx", (columns,), _INTEGERS)
    return _layer(sizes, bits, rows, columns, groups)


def _layer(sizes: _Sizes, bits: int, rows: int, columns: int, groups: int) -> Layer:
    if columns % groups:
        raise ModelError(f"{sizes.name}: {groups} groups do not divide its rows of {columns} numbers")
    return Layer(sizes.name, sizes.packing, bits, rows, columns, groups, sizes.parts)

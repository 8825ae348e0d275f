"""Codes, scales and zeros of a quantised matrix: number = (code - zero) * scale.

Sources: AutoAWQ, awq/utils/packing_utils.py; AutoGPTQ, nn_modules/qlinear/qlinear_triton.py; compressed-tensors,
compressors/pack_quantized/helpers.py.
"""

from dataclasses import dataclass

import torch

from hanbit.common.errors import ModelError
from hanbit.formats.packed.config import AWQ, COMPRESSED
from hanbit.formats.packed.layouts import Layer, Read

_AWQ_ORDER = [0, 4, 1, 5, 2, 6, 3, 7]  # where in an int32 the eight outputs are


@dataclass(frozen=True)
class Packed:
    """codes: uint8 [rows, columns]; zeros: uint8, scales: as stored, [rows, groups]. group_of: int64 [columns], the
    group of each column, where they are not in order (desc_act)."""

    bits: int
    codes: torch.Tensor
    zeros: torch.Tensor
    scales: torch.Tensor
    group_of: torch.Tensor | None

    def numbers(self) -> torch.Tensor:
        """float32 [rows, columns]."""
        if self.group_of is None:
            groups = self.codes.unflatten(1, (self.scales.shape[1], -1))
            return ((groups.float() - self.zeros.float()[..., None]) * self.scales.float()[..., None]).flatten(1)
        gaps = self.codes.float() - self.zeros.float()[:, self.group_of]
        return gaps * self.scales.float()[:, self.group_of]


def unpack(layer: Layer, read: Read) -> Packed:
    """Raises ModelError on a scale that is no number, and a column of a group that is not there."""
    parts = {kind: read(name) for kind, name in layer.parts.items()}
    if layer.packing.method == COMPRESSED:
        codes = _words(parts["weight_packed"], layer.bits)[:, : layer.columns]
        scales = parts["weight_scale"]
        zeros = torch.full(scales.shape, 1 << layer.bits - 1, dtype=torch.uint8)
        if "weight_zero_point" in parts:
            zeros = _words(parts["weight_zero_point"].T, layer.bits)[:, : layer.rows].T
    else:
        is_awq = layer.packing.method == AWQ
        codes = _awq_words(parts["qweight"]).T if is_awq else _words(parts["qweight"].T, layer.bits)
        zeros = (_awq_words(parts["qzeros"]) if is_awq else _words(parts["qzeros"], layer.bits)).T
        if layer.packing.adds_one:
            zeros = (zeros.int() + 1 & (1 << layer.bits) - 1).to(torch.uint8)
        scales = parts["scales"].T
    if not bool(scales.isfinite().all()):
        raise ModelError(f"{layer.name} has a scale that is no finite number. It is damaged, copy the folder again")
    order = parts.get("g_idx", parts.get("weight_g_idx"))
    group_of = None if order is None else _group_of(layer, order)
    return Packed(layer.bits, codes.contiguous(), zeros.contiguous(), scales.contiguous(), group_of)


def _words(packed: torch.Tensor, bits: int) -> torch.Tensor:
    """int32 [rows, words] -> uint8 [rows, words * 32 / bits], the lowest bits first."""
    shifts = torch.arange(0, 32, bits, dtype=torch.int32)
    return (packed.contiguous()[..., None] >> shifts & (1 << bits) - 1).to(torch.uint8).flatten(1)


def _awq_words(packed: torch.Tensor) -> torch.Tensor:
    return _words(packed, 4).unflatten(1, (-1, 8))[..., _AWQ_ORDER].flatten(1)


def _group_of(layer: Layer, order: torch.Tensor) -> torch.Tensor | None:
    order = order.long()
    if bool((order == -1).all()) and layer.packing.method == COMPRESSED:
        return None  # -1 throughout: it was never set
    if not 0 <= int(order.min()) <= int(order.max()) < layer.groups:
        raise ModelError(f"{layer.name}: a column is of group {int(order.max())}, there are {layer.groups}")
    in_order = torch.arange(layer.columns) // (layer.columns // layer.groups)
    return None if torch.equal(order, in_order) else order

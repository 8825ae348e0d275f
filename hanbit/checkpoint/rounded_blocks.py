"""Rounded matrices as ggml's blocks, which the native kernels multiply; other formats', too, where that can be."""

import torch
from gguf.constants import GGMLQuantizationType

from hanbit.formats.gguf.blocks import Blocks
from hanbit.formats.gguf.pack import packed
from hanbit.formats.packed.unpack import Packed
from hanbit.quantize.groups import Rounded, Scheme

BLOCK = 32
_FURTHEST = 0.25  # of a step between two codes, that fp16 scales may move a number; rounding has moved it by up to 0.5


class NotInBlocks(Exception):
    """A packed matrix that ggml's blocks cannot say, and why."""


def type_of(scheme: Scheme) -> GGMLQuantizationType:
    if scheme.bits == 8:
        return GGMLQuantizationType.Q8_0
    return GGMLQuantizationType.Q4_0 if scheme.is_symmetric else GGMLQuantizationType.Q4_1


def blocks_of(one: Rounded) -> Blocks:
    kind = type_of(one.scheme)
    least = None if one.least is None else one.least.numpy()
    data = packed(kind, one.codes.numpy(), one.scales.numpy(), least)
    return Blocks(kind.name, tuple(one.codes.shape), torch.from_numpy(data))


def as_rounded(one: Packed) -> Rounded:
    """With fp16 scales and least = -zero * scale in fp16, which is rounded; exact where all zeros are the middle code
    and scales are fp16's. Raises NotInBlocks where blocks cannot say it: groups out of order or of no whole number of
    blocks, 8 bits with zeros of their own, scales beyond fp16 or too small for it."""
    group = one.codes.shape[1] // one.scales.shape[1]
    middle = 1 << one.bits - 1
    is_symmetric = bool((one.zeros == middle).all())
    if one.group_of is not None:
        raise NotInBlocks("its groups are out of order (desc_act)")
    if group % BLOCK:
        raise NotInBlocks(f"its groups of {group} are not of whole blocks of {BLOCK}")
    if one.bits == 8 and not is_symmetric:
        raise NotInBlocks("its codes of 8 bits have zeros of their own")
    scheme, scales = Scheme(one.bits, group, is_symmetric), one.scales.half()
    least = None if is_symmetric else (-(one.zeros.float() * scales.float())).half()
    _check_held(one, scales, least, middle if is_symmetric else 2 * middle - 1)
    codes = (one.codes.int() - middle if is_symmetric else one.codes).to(torch.int8)
    return Rounded(scheme, codes, scales, least)


def _check_held(one: Packed, scales: torch.Tensor, least: torch.Tensor | None, largest: int) -> None:
    """fp16 has steps of 2^-24 below 2^-14: small scales of float32 or bfloat16 become others, or zero. `largest`: of
    the codes that a scale is multiplied with."""
    if not all(bool(part.isfinite().all()) for part in (scales, least) if part is not None):
        raise NotInBlocks("its scales are beyond fp16")
    exact = one.scales.float()
    moved = (scales.float() - exact).abs() * largest
    if least is not None:
        moved += (least.float() + one.zeros.float() * exact).abs()
    if bool((moved > _FURTHEST * exact.abs()).any()):
        smallest = largest * 2**-25 / _FURTHEST
        raise NotInBlocks(f"it has scales that fp16 holds too coarsely (below about {smallest:.0e})")

"""Rounded matrices as ggml's blocks, which the native kernels multiply; other formats', too, where that can be."""

import torch
from gguf.constants import GGMLQuantizationType

from hanbit.formats.gguf.blocks import Blocks
from hanbit.formats.gguf.pack import packed
from hanbit.formats.packed.unpack import Packed
from hanbit.quantize.groups import Rounded, Scheme

BLOCK = 32


def type_of(scheme: Scheme) -> GGMLQuantizationType:
    if scheme.bits == 8:
        return GGMLQuantizationType.Q8_0
    return GGMLQuantizationType.Q4_0 if scheme.is_symmetric else GGMLQuantizationType.Q4_1


def blocks_of(one: Rounded) -> Blocks:
    kind = type_of(one.scheme)
    least = None if one.least is None else one.least.numpy()
    data = packed(kind, one.codes.numpy(), one.scales.numpy(), least)
    return Blocks(kind.name, tuple(one.codes.shape), torch.from_numpy(data))


def as_rounded(one: Packed) -> Rounded | None:
    """With fp16 scales and least = -zero * scale in fp16, which is rounded; exact where all zeros are the middle code
    and scales are fp16's. None where blocks cannot say it: groups out of order or of no whole number of blocks, 8 bits
    with zeros of their own, scales beyond fp16."""
    group = one.codes.shape[1] // one.scales.shape[1]
    middle = 1 << one.bits - 1
    is_symmetric = bool((one.zeros == middle).all())
    if one.group_of is not None or group % BLOCK or (one.bits == 8 and not is_symmetric):
        return None
    scheme, scales = Scheme(one.bits, group, is_symmetric), one.scales.half()
    least = None if is_symmetric else (-(one.zeros.float() * scales.float())).half()
    if not all(bool(part.isfinite().all()) for part in (scales, least) if part is not None):
        return None
    codes = (one.codes.int() - middle if is_symmetric else one.codes).to(torch.int8)
    return Rounded(scheme, codes, scales, least)

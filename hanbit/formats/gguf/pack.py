"""Codes, scales and least numbers as ggml's blocks of 32: the way back from dequantise.py. Numpy alone."""

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

_TYPES = (GGMLQuantizationType.Q4_0, GGMLQuantizationType.Q4_1, GGMLQuantizationType.Q8_0)


def packed(type: GGMLQuantizationType, codes: np.ndarray, scales: np.ndarray, least: np.ndarray | None) -> np.ndarray:
    """uint8 [rows, bytes of a row].

    type: Q4_0 (codes -8 .. 7), Q4_1 (0 .. 15, with least numbers) or Q8_0 (-128 .. 127). codes: int8 [rows, columns],
    columns a multiple of 32; scales, least: float16 [rows, groups], each group a whole number of blocks, which all get
    its scale.
    """
    assert type in _TYPES
    assert (least is not None) == (type == GGMLQuantizationType.Q4_1)
    block_size, block_bytes = GGML_QUANT_SIZES[type]
    blocks = codes.reshape(len(codes), -1, block_size)
    found = np.empty((*blocks.shape[:2], block_bytes), dtype=np.uint8)
    found[..., :2] = _of_blocks(scales, blocks.shape[1])
    start = 2
    if least is not None:
        found[..., 2:4] = _of_blocks(least, blocks.shape[1])
        start = 4
    found[..., start:] = blocks.view(np.uint8) if type == GGMLQuantizationType.Q8_0 else _nibbles(blocks, type)
    return found.reshape(len(codes), -1)


def _of_blocks(halves: np.ndarray, blocks: int) -> np.ndarray:
    """float16 [rows, groups] -> uint8 [rows, blocks, 2]."""
    repeated = np.repeat(halves.astype("<f2"), blocks // halves.shape[1], axis=1)
    return repeated.view(np.uint8).reshape(*repeated.shape, 2)


def _nibbles(blocks: np.ndarray, type: GGMLQuantizationType) -> np.ndarray:
    """int8 [rows, blocks, 32] -> uint8 [rows, blocks, 16]: the first half of a block lies in the low bits."""
    codes = (blocks + (8 if type == GGMLQuantizationType.Q4_0 else 0)).astype(np.uint8)
    return codes[..., :16] | codes[..., 16:] << 4

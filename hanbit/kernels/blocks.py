"""ggml's blocks of 32 numbers, rearranged for the kernels (native/blocks.cpp): panels of 16 outputs. Numpy alone.

    a row of the file:   scale, (least,) 32 numbers; the next block ...
    a panel's block:     numbers of 16 rows, 4 inputs of each in turn; 16 scales; (16 least numbers)

The integers and the fp16 scales are the file's own; nothing is rounded again and no byte is added but for rows that
fill up the last panel.
"""

from enum import IntEnum

import numpy as np

BLOCK = 32  # inputs
PANEL = 16  # outputs
_FOUR = 4  # inputs of an output that lie together


class Kind(IntEnum):
    """As in native/kernels.h. A name is ggml's, FLOAT32 apart."""

    FLOAT32 = 0
    Q4_0 = 1
    Q4_1 = 2
    Q8_0 = 3


_NUM_SCALES = {Kind.Q4_0: 1, Kind.Q4_1: 2, Kind.Q8_0: 1}
_NUMBER_BYTES = {Kind.Q4_0: 16, Kind.Q4_1: 16, Kind.Q8_0: 32}  # of a block; its scales come before them


def kind_of(name: str) -> Kind | None:
    """Of ggml's name; None where the kernels do not multiply such blocks."""
    return Kind[name] if name in Kind.__members__ and name != "FLOAT32" else None


def pack(kind: Kind, rows: np.ndarray) -> np.ndarray:
    """rows: uint8 [outputs, bytes of a row]; panels, uint8 [bytes]. Raises ValueError if a scale is not finite."""
    scale_bytes, number_bytes = 2 * _NUM_SCALES[kind], _NUMBER_BYTES[kind]
    blocks = rows.reshape(len(rows), -1, scale_bytes + number_bytes)
    scales = blocks[..., :scale_bytes]
    if not np.isfinite(np.ascontiguousarray(scales).view(np.float16)).all():
        raise ValueError("a scale is not a finite number")
    missing = -len(blocks) % PANEL
    if missing:
        blocks = np.concatenate((blocks, np.zeros((missing, *blocks.shape[1:]), np.uint8)))
    panels = blocks.reshape(-1, PANEL, *blocks.shape[1:]).transpose(0, 2, 1, 3)  # [panels, blocks, outputs, bytes]
    return np.concatenate(
        (_turned(panels[..., scale_bytes:], _FOUR), _turned(panels[..., :scale_bytes], 2)), axis=-1
    ).reshape(-1)


def _turned(panels: np.ndarray, size: int) -> np.ndarray:
    """[panels, blocks, outputs, bytes] -> [panels, blocks, all of them], `size` bytes of every output in turn."""
    pieces = panels.reshape(*panels.shape[:3], -1, size).swapaxes(2, 3)
    return pieces.reshape(*panels.shape[:2], -1)

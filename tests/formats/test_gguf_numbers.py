"""Numbers of quantised blocks, against the package `gguf`: equal in every bit, whatever the bytes are."""

import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from hanbit.formats.gguf.dequantise import numbers

OURS = [GGMLQuantizationType[name] for name in ("Q4_0", "Q4_1", "Q8_0")]
OTHERS = [GGMLQuantizationType[name] for name in ("Q5_K", "F16", "F32")]


@pytest.mark.parametrize("type", OURS + OTHERS, ids=lambda type: type.name)
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (5, 1000), (2, 3, 4)], ids=str)
def test_any_bytes_are_the_numbers_of_the_package(type: GGMLQuantizationType, shape: tuple[int, ...]) -> None:
    """`shape`: in blocks; 5000 of them are more than a piece. Some of the scales are infinite or no number."""
    row_bytes = shape[-1] * GGML_QUANT_SIZES[type][1]
    blocks = np.random.default_rng(1).integers(0, 256, (*shape[:-1], row_bytes), dtype=np.uint8)
    with np.errstate(all="ignore"):
        wanted, found = dequantize(blocks, type), numbers(blocks, type)
    assert found.dtype == np.float32
    assert found.shape == wanted.shape
    assert np.array_equal(np.isnan(found), np.isnan(wanted))
    is_number = ~np.isnan(wanted)
    assert np.array_equal(found[is_number].view(np.uint32), wanted[is_number].view(np.uint32))

"""Products with quantised weights beside the same integer arithmetic in numpy, for every instruction set here."""

import ctypes

import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from hanbit.kernels.blocks import BLOCK, FLOATS, Kind, kind_of, pack
from hanbit.kernels.library import Native
from hanbit.kernels.structs import Matrix, linear

KINDS = [kind for kind in Kind if kind not in FLOATS]
SIZES = [(32, 1), (64, 16), (96, 37), (576, 50)]  # (inputs, outputs)
# Bytes of a block of the file that are fp16 scales: (from, to)
HALVES = {
    Kind.Q4_1: (0, 4), Kind.Q5_1: (0, 4), Kind.Q4_K: (0, 4), Kind.Q5_K: (0, 4), Kind.Q6_K: (208, 210),
}  # fmt: skip
OF_K = (Kind.Q4_K, Kind.Q5_K, Kind.Q6_K)


def suited(kind: Kind, inputs: int) -> int:
    """Inputs that are whole blocks: those of K are 256 long."""
    return 8 * inputs if kind in OF_K else inputs


def weights(kind: Kind, inputs: int, outputs: int, seed: int = 0) -> np.ndarray:
    """Random blocks with small scales, uint8 [outputs, bytes of a row]; the largest and smallest numbers are there."""
    random = np.random.default_rng(seed)
    block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[kind.name]]
    begin, end = HALVES.get(kind, (0, 2))
    blocks = random.integers(0, 256, (outputs, inputs // block, block_bytes), dtype=np.uint8)
    blocks[0, 0] = 0x80 if kind == Kind.Q8_0 else 0x0F
    scales = random.normal(0, 0.1, (outputs, inputs // block, (end - begin) // 2)).astype(np.float16)
    blocks[..., begin:end] = scales.view(np.uint8).reshape(*scales.shape[:2], -1)
    return blocks.reshape(outputs, -1)


def numbers(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3, shape).astype(np.float32)


def product(
    native: Native,
    hidden: np.ndarray,
    parts: list[tuple[Kind, np.ndarray]],
    bias: np.ndarray | None = None,
    threads: int = 1,
) -> np.ndarray:
    packed = [pack(kind, rows) if kind != Kind.FLOAT32 else rows for kind, rows in parts]
    matrices = [Matrix(one.ctypes.data, kind, len(rows)) for one, (kind, rows) in zip(packed, parts, strict=True)]
    layer = linear(hidden.shape[1], matrices, None if bias is None else bias.ctypes.data)
    output = np.full((len(hidden), layer.outputs), np.nan, np.float32)
    native.library.hanbit_linear(
        native.kernels, ctypes.byref(layer), hidden.ctypes.data, len(hidden), output.ctypes.data, threads
    )
    return output


def quantised(native: Native, hidden: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(int8 numbers [rows, blocks, 32], scales [rows, blocks]) that the kernels make of rows."""
    rows, inputs = hidden.shape
    found = np.zeros((rows, inputs // BLOCK * 48), np.uint8)
    for row, into in zip(hidden, found, strict=True):
        native.library.hanbit_quantise(native.kernels, row.ctypes.data, inputs, into.ctypes.data)
    sides = np.ascontiguousarray(found[:, inputs:]).view(np.float32).reshape(rows, -1, 4)
    return found[:, :inputs].view(np.int8).reshape(rows, -1, BLOCK), sides[..., 0]


def wanted(native: Native, hidden: np.ndarray, kind: Kind, rows: np.ndarray) -> np.ndarray:
    """A plain loop over blocks in float64: integer products, times both scales, plus the least number's share."""
    inputs, scales = quantised(native, hidden)
    meant = dequantize(rows, GGMLQuantizationType[kind.name]).astype(np.float64).reshape(len(rows), -1, BLOCK)
    total = np.zeros((len(hidden), len(rows)))
    for block in range(meant.shape[1]):
        total += (inputs[:, block].astype(np.float64) @ meant[:, block].T) * scales[:, block, None]
    return total


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("inputs", "outputs"), SIZES)
@pytest.mark.parametrize(("rows", "threads"), [(1, 1), (2, 2), (5, 1), (19, 2)])
def test_product_is_that_of_the_integers_and_scales_of_the_file(
    kernels: Native, kind: Kind, inputs: int, outputs: int, rows: int, threads: int
) -> None:
    inputs = suited(kind, inputs)
    hidden, blocks, bias = numbers(rows, inputs), weights(kind, inputs, outputs), numbers(outputs, seed=2)
    found = product(kernels, hidden, [(kind, blocks)], bias, threads)
    exact = wanted(kernels, hidden, kind, blocks) + bias
    np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-6 * np.abs(exact).max())


@pytest.mark.parametrize("kind", KINDS)
def test_largest_integers_do_not_overflow(kernels: Native, kind: Kind) -> None:
    inputs = suited(kind, 64)
    hidden = np.full((8, inputs), 127.0, np.float32)
    begin, end = HALVES.get(kind, (0, 2))
    blocks = weights(kind, inputs, 16)
    by_block = blocks.reshape(16, -1, GGML_QUANT_SIZES[GGMLQuantizationType[kind.name]][1])
    by_block[..., [*range(begin), *range(end, by_block.shape[-1])]] = 0x80 if kind == Kind.Q8_0 else 0xFF
    if kind == Kind.Q6_K:
        by_block[..., 192:208] = 0x80
    found = product(kernels, hidden, [(kind, blocks)])
    exact = wanted(kernels, hidden, kind, blocks)  # a scale's share less a least number's may be much smaller than both
    np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-6 * np.abs(exact).max())


def test_input_is_rounded_to_the_nearest_of_255_numbers(kernels: Native) -> None:
    hidden = numbers(3, 96)
    hidden[1, 32:64] = 0
    hidden[2, :32] = 1e-35  # so small that its reciprocal is not a number
    found, scales = quantised(kernels, hidden)
    blocks = hidden.reshape(3, 3, BLOCK)
    np.testing.assert_allclose(
        scales, np.where(np.abs(blocks).max(-1) > 1e-30, np.abs(blocks).max(-1) / 127, 0), rtol=1e-6
    )
    assert np.abs(found * scales[..., None] - blocks).max() <= 0.5001 * scales.max()
    assert np.abs(found.astype(int)).max() == 127


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strange", [np.nan, np.inf, -np.inf])
def test_input_that_is_no_number_gives_none(kernels: Native, kind: Kind, strange: float) -> None:
    inputs = suited(kind, 96)
    hidden = numbers(2, inputs)
    hidden[1, 40] = strange
    found = product(kernels, hidden, [(kind, weights(kind, inputs, 20))])
    assert np.isfinite(found[0]).all()
    assert np.isnan(found[1]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_rows_answered_together_have_the_numbers_they_have_alone(kernels: Native, kind: Kind) -> None:
    inputs = 768 if kind in OF_K else 576
    hidden, blocks = numbers(21, inputs), weights(kind, inputs, 67)
    alone = np.concatenate([product(kernels, row[None], [(kind, blocks)]) for row in hidden])
    for rows in (2, 3, 7, 8, 21):
        assert np.array_equal(product(kernels, hidden[:rows], [(kind, blocks)], threads=2), alone[:rows])


def test_matrices_of_several_kinds_lie_side_by_side(kernels: Native) -> None:
    hidden, plain = numbers(3, 64), numbers(18, 64, seed=4)
    parts = [(Kind.Q4_1, weights(Kind.Q4_1, 64, 40)), (Kind.Q8_0, weights(Kind.Q8_0, 64, 23)), (Kind.FLOAT32, plain)]
    found = product(kernels, hidden, parts, threads=2)
    apart = [product(kernels, hidden, [part]) for part in parts]
    assert np.array_equal(found, np.concatenate(apart, axis=1))
    np.testing.assert_allclose(apart[2], hidden @ plain.T, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_the_numbers_that_the_file_means(kernels: Native, kind: Kind) -> None:
    inputs = suited(kind, 96)
    blocks = weights(kind, inputs, 37)
    packed, indices = pack(kind, blocks), np.array([0, 36, 5, 16], np.int64)
    found = np.zeros((4, inputs), np.float32)
    matrix = Matrix(packed.ctypes.data, kind, 37)
    kernels.library.hanbit_take_rows(
        kernels.kernels, ctypes.byref(matrix), inputs, indices.ctypes.data, len(indices), found.ctypes.data
    )
    meant = dequantize(blocks, GGMLQuantizationType[kind.name])[indices]
    np.testing.assert_allclose(found, meant, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("half", [0x0001, 0x03FF, 0x0400, 0x8001, 0x7BFF])
def test_every_kind_of_half_is_read(kernels: Native, half: int) -> None:
    blocks = weights(Kind.Q8_0, 32, 16)
    blocks[:, :2] = np.array([half], np.uint16).view(np.uint8)
    hidden = numbers(1, 32)
    exact = wanted(kernels, hidden, Kind.Q8_0, blocks)
    np.testing.assert_allclose(product(kernels, hidden, [(Kind.Q8_0, blocks)]), exact, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_scales_that_are_no_numbers_are_refused(kind: Kind) -> None:
    blocks = weights(kind, suited(kind, 64), 4)
    _, end = HALVES.get(kind, (0, 2))
    blocks[2, end - 2 : end] = np.array([np.nan], np.float16).view(np.uint8)
    with pytest.raises(ValueError, match="not a finite number"):
        pack(kind, blocks)


def test_other_types_are_not_of_these_kinds() -> None:
    assert kind_of("Q4_1") == Kind.Q4_1
    assert kind_of("IQ2_XS") is None
    assert kind_of("FLOAT32") is None

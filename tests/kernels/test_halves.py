"""Products with weights of 16 bits beside those with the float32 numbers that torch makes of them."""

import ctypes

import pytest
import torch

from hanbit.engine.native import FLOAT_KINDS
from hanbit.kernels.library import Native
from hanbit.kernels.structs import Matrix, linear

HALVES = [torch.float16, torch.bfloat16]


def product(native: Native, hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    output = torch.full((len(hidden), len(weight)), float("nan"))
    layer = linear(weight.shape[1], [Matrix(weight.data_ptr(), FLOAT_KINDS[weight.dtype], len(weight))])
    native.library.hanbit_linear(
        native.kernels, ctypes.byref(layer), hidden.data_ptr(), len(hidden), output.data_ptr(), 2
    )
    return output


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("rows", [1, 5, 8, 9, 67])
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (15, 7), (64, 33), (576, 100), (577, 100)])
def test_they_give_the_same_numbers_to_the_last_bit_where_lines_are_whole(
    kernels: Native, dtype: torch.dtype, rows: int, inputs: int, outputs: int
) -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(rows, inputs), torch.randn(outputs, inputs).to(dtype)
    found = product(kernels, hidden, weight)
    if inputs % 16 == 0:
        assert torch.equal(found, product(kernels, hidden, weight.float()))
    torch.testing.assert_close(found, (hidden.double() @ weight.double().T).float(), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", HALVES)
def test_every_finite_number_is_read_as_torch_reads_it(kernels: Native, dtype: torch.dtype) -> None:
    """Also by vectors, where a product with a one and zeros takes each number of a row alone."""
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    every = every[every.isfinite()]
    weight = every[: len(every) // 32 * 32].view(-1, 32)
    rows, indices = torch.full(weight.shape, float("nan")), torch.arange(len(weight))
    matrix = Matrix(weight.data_ptr(), FLOAT_KINDS[dtype], len(weight))
    kernels.library.hanbit_take_rows(
        kernels.kernels, ctypes.byref(matrix), 32, indices.data_ptr(), len(indices), rows.data_ptr()
    )
    assert torch.equal(rows, weight.float())
    assert torch.equal(product(kernels, torch.eye(32), weight), weight.float().T)

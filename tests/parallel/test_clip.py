"""Sums of squares beside float64's."""

import pytest
import torch

from hanbit.parallel.clip import sum_of_squares


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1,), (4095,), (4097,), (3, 4096), (20_000, 1024)])
def test_squares_of_many_numbers_are_those_of_float64(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    tensors = [(torch.randn(shape) * 1e-3).to(dtype), torch.randn(7, 5).T.to(dtype)]
    wanted = sum(float(tensor.double().square().sum()) for tensor in tensors)
    assert float(sum_of_squares(tensors)) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_number_that_is_none_is_not_lost(bad: float) -> None:
    tensor = torch.ones(10_000)
    tensor[9_998] = bad
    assert not sum_of_squares([tensor]).isfinite()

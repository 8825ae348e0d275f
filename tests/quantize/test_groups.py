"""Groups rounded beside plain loops, the package gguf's rounding, and a search over a fine grid of scales."""

import gguf
import numpy as np
import pytest
import torch
from gguf.constants import GGMLQuantizationType

from hanbit.formats.gguf.pack import packed
from hanbit.quantize.groups import Rounded, Scheme, rounded

SCHEMES = [Scheme(bits, group) for bits in (4, 8) for group in (32, 64, 128)]
SCHEMES += [Scheme(4, group, is_symmetric=False) for group in (32, 128)]
TYPES = {(4, True): "Q4_0", (4, False): "Q4_1", (8, True): "Q8_0"}


def weights(rows: int = 6, columns: int = 256, seed: int = 0) -> torch.Tensor:
    found = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.1
    found[1, 40] = 2.0  # a number far from its group
    found[2, :128] = 0.0
    found[3, 128:] += 0.5  # not around zero
    return found


def type_of(scheme: Scheme) -> GGMLQuantizationType:
    return GGMLQuantizationType[TYPES[scheme.bits, scheme.is_symmetric]]


def by_hand(one: Rounded) -> torch.Tensor:
    """Code by code."""
    found, group = torch.empty(one.codes.shape), one.scheme.group
    for row, codes in enumerate(one.codes.tolist()):
        for column, code in enumerate(codes):
            scale = np.float32(one.scales[row, column // group].item())
            least = np.float32(0 if one.least is None else one.least[row, column // group].item())
            found[row, column] = float(np.float32(code) * scale + least)
    return found


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_numbers_are_those_that_the_blocks_mean(scheme: Scheme) -> None:
    one = rounded(weights(), scheme)
    low, high = scheme.codes
    assert low <= int(one.codes.min()) <= int(one.codes.max()) <= high
    assert torch.equal(one.numbers(), by_hand(one))
    least = None if one.least is None else one.least.numpy()
    blocks = packed(type_of(scheme), one.codes.numpy(), one.scales.numpy(), least)
    assert np.array_equal(gguf.dequantize(blocks, type_of(scheme)), one.numbers().numpy())


@pytest.mark.parametrize("scheme", [one for one in SCHEMES if one.group == 32], ids=str)
def test_no_block_is_further_from_its_numbers_than_by_the_plain_scale(scheme: Scheme) -> None:
    numbers = weights(16, 512)
    plain = gguf.dequantize(gguf.quantize(numbers.numpy(), type_of(scheme)), type_of(scheme))

    def errors(found: torch.Tensor) -> torch.Tensor:
        return (found - numbers).square().reshape(-1, 32).sum(1)

    ours, theirs = errors(rounded(numbers, scheme).numbers()), errors(torch.from_numpy(plain))
    assert (ours <= theirs * (1 + 1e-6)).all()
    if scheme.bits == 4:
        assert ours.sum() < 0.9 * theirs.sum()


@pytest.mark.parametrize("is_symmetric", [True, False])
def test_scales_are_near_the_best_of_a_fine_grid(is_symmetric: bool) -> None:
    """Of ranges only such are tried as are cut on both sides alike: a little is lost where one end is far away."""
    scheme, numbers = Scheme(4, 32, is_symmetric), weights(4, 64)
    importance = torch.rand(64, generator=torch.Generator().manual_seed(5)) + 0.05
    errors = (rounded(numbers, scheme, importance).numbers() - numbers).square() * importance
    best = sum(
        best_error(numbers[row, start : start + 32], importance[start : start + 32], is_symmetric)
        for row in range(4)
        for start in (0, 32)
    )
    assert float(errors.sum()) <= (1.02 if is_symmetric else 1.1) * best


def best_error(group: torch.Tensor, importance: torch.Tensor, is_symmetric: bool) -> float:
    """Of a fine grid of scales, and of least numbers."""
    low, high = Scheme(4, 32, is_symmetric).codes
    start, best = float(group.min()), float((group.square() * importance).sum())
    spread = 2 * float(group.abs().max()) if is_symmetric else float(group.max()) - start
    for scale in [*np.linspace(spread / 30, spread / 12, 120), *-np.linspace(spread / 30, spread / 12, 120)]:
        for least in [0.0] if is_symmetric else np.linspace(start, start + 4 * abs(scale), 40):
            codes = ((group - least) / scale).round().clamp(low, high)
            best = min(best, float(((codes * scale + least - group).square() * importance).sum()))
    return best


def test_important_columns_are_kept_better() -> None:
    numbers, importance = weights(32, 64), torch.ones(64)
    importance[::8] = 100.0
    plain, weighted = (rounded(numbers, Scheme(4, 32), one).numbers() - numbers for one in (None, importance))
    assert weighted[:, ::8].square().sum() < 0.75 * plain[:, ::8].square().sum()


def test_a_group_has_one_scale_over_all_its_blocks() -> None:
    one = rounded(weights(), Scheme(4, 128))
    blocks = packed(GGMLQuantizationType.Q4_0, one.codes.numpy(), one.scales.numpy(), None).reshape(6, 2, 4, 18)
    assert (blocks[..., :2] == blocks[:, :, :1, :2]).all()


def test_numbers_on_the_grid_stay_and_zeros_are_zeros() -> None:
    codes = torch.randint(-8, 8, (4, 64), generator=torch.Generator().manual_seed(1))
    codes[:, ::32] = -8
    numbers = codes.float() * 0.25
    assert torch.equal(rounded(numbers, Scheme(4, 32)).numbers(), numbers)
    assert torch.equal(rounded(torch.zeros(2, 64), Scheme(4, 32)).numbers(), torch.zeros(2, 64))
    assert torch.equal(rounded(torch.full((2, 64), 0.5), Scheme(4, 32, False)).numbers(), torch.full((2, 64), 0.5))


def test_what_no_fp16_scale_reaches_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a number of 1e\+06 is beyond what fp16 scales reach \(65504\)"):
        rounded(torch.full((1, 32), 1e6), Scheme(4, 32))
    tiny = rounded(torch.full((1, 32), 1e-9), Scheme(4, 32)).numbers()
    assert torch.equal(tiny, torch.zeros(1, 32)), "below what fp16 tells from nothing"


def test_bits_of_a_number_count_its_scale() -> None:
    found = [Scheme(4, 32).bits_per_number, Scheme(4, 128).bits_per_number, Scheme(4, 64, False).bits_per_number]
    assert found == [4.5, 4.125, 4.5]
    assert Scheme(8, 32).bits_per_number == 8.5

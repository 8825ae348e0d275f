"""Numbers rounded to 4 or 8 bits, in groups of a row that share a scale.

    symmetric     number = code * scale            codes -8 .. 7, or -127 .. 127
    asymmetric    number = code * scale + least    codes 0 .. 15

Scales and least numbers are fp16, as ggml's blocks have them (Q4_0, Q8_0; Q4_1), so that what is found here is what
will be computed with, to the last bit.
"""

from dataclasses import dataclass

import torch

BITS = {"int4": 4, "int8": 8}
GROUPS = (32, 64, 128)
_PIECE = 8192  # groups at a time: what a search goes over stays near the cores
_TRIES = 4  # on each side of the plain scale
_STEP = 0.2 / 8  # of the plain scale: the largest number's code moves by a fifth
_MOST = 65504.0  # of fp16


@dataclass(frozen=True)
class Scheme:
    """bits: 4 or 8 of a code. group: numbers of a row that share a scale."""

    bits: int
    group: int
    is_symmetric: bool = True

    @property
    def codes(self) -> tuple[int, int]:
        """The least and the largest."""
        if not self.is_symmetric:
            return 0, 2**self.bits - 1
        return (-8, 7) if self.bits == 4 else (-127, 127)

    @property
    def bits_per_number(self) -> float:
        """The scales counted, once for each group."""
        return self.bits + (16 if self.is_symmetric else 32) / self.group


@dataclass(frozen=True)
class Rounded:
    """codes: int8 [rows, columns]; scales, least: float16 [rows, columns / group], least None where symmetric."""

    scheme: Scheme
    codes: torch.Tensor
    scales: torch.Tensor
    least: torch.Tensor | None

    def numbers(self) -> torch.Tensor:
        """float32 [rows, columns]; one product, one sum, each rounded, as whoever reads the blocks does it."""
        found = self.codes.float().unflatten(1, (-1, self.scheme.group)) * self.scales.float().unsqueeze(-1)
        if self.least is not None:
            found += self.least.float().unsqueeze(-1)
        return found.flatten(1)


def rounded(
    numbers: torch.Tensor, scheme: Scheme, importance: torch.Tensor | None = None, is_searched: bool = True
) -> Rounded:
    """To nearest, each group with the scale whose squared errors, weighted by `importance`, are least; the plain scale
    unless `is_searched`.

    numbers: float32 [rows, columns], finite, columns a multiple of the group. importance: float32 [columns], not
    negative; None: all alike. Raises ValueError on a number that no fp16 scale reaches.
    """
    rows, columns = numbers.shape
    assert columns % scheme.group == 0
    groups = numbers.reshape(-1, scheme.group)
    weights = torch.ones(1, scheme.group) if importance is None else importance.reshape(-1, scheme.group)
    per_row = columns // scheme.group
    scales, least = torch.empty(len(groups)), torch.zeros(len(groups))
    for start in range(0, len(groups), _PIECE):
        piece = groups[start : start + _PIECE]
        own = weights[torch.arange(start, start + len(piece)) % per_row] if len(weights) > 1 else weights
        scales[start : start + _PIECE], least[start : start + _PIECE] = best_scales(piece, scheme, own, is_searched)
    codes = codes_of(groups, scheme, scales.unsqueeze(1), least.unsqueeze(1))
    return Rounded(
        scheme,
        codes.to(torch.int8).view(rows, columns),
        scales.view(rows, per_row).half(),
        None if scheme.is_symmetric else least.view(rows, per_row).half(),
    )


def best_scales(
    groups: torch.Tensor, scheme: Scheme, weights: torch.Tensor | None = None, is_searched: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """groups: float32 [groups, group]; weights: of their squared errors, [groups or 1, group].

    Returns scales and least numbers, float32 [groups] that are fp16's; the latter are 0 where symmetric. The plain
    choice is among what is tried, so none is worse. Raises ValueError on numbers that fp16 does not reach.
    """
    if not groups.numel():
        return groups.new_zeros(len(groups)), groups.new_zeros(len(groups))
    if not float(groups.abs().max()) <= _MOST:
        raise ValueError(f"a number of {float(groups.abs().max()):.3g} is beyond what fp16 scales reach ({_MOST:.0f})")
    weights = groups.new_ones(1, groups.shape[1]) if weights is None else weights
    best = _Best(groups, scheme, weights)
    (_symmetric if scheme.is_symmetric else _asymmetric)(groups, scheme, weights, best, is_searched)
    return best.scales, best.least


def codes_of(groups: torch.Tensor, scheme: Scheme, scales: torch.Tensor, least: torch.Tensor) -> torch.Tensor:
    """The nearest codes of `groups`, float32; `scales` and `least` broadcast to them."""
    inverse = torch.where(scales == 0, 0.0, 1.0 / scales)
    return ((groups - least) * inverse).round_().clamp_(*scheme.codes)


class _Best:
    """Scales and least numbers with the least error so far, of each group."""

    def __init__(self, groups: torch.Tensor, scheme: Scheme, weights: torch.Tensor) -> None:
        self._groups, self._scheme, self._weights = groups, scheme, weights
        self.scales, self.least = groups.new_zeros(len(groups)), groups.new_zeros(len(groups))
        self._errors = groups.new_full((len(groups),), torch.inf)

    def offer(self, scales: torch.Tensor, least: torch.Tensor) -> None:
        """[groups]; rounded to fp16 before they are judged."""
        scales, least = scales.half().float(), least.half().float()
        codes = codes_of(self._groups, self._scheme, scales.unsqueeze(1), least.unsqueeze(1))
        found = codes.mul_(scales.unsqueeze(1)).add_(least.unsqueeze(1)).sub_(self._groups).square_()
        errors = (found * self._weights).sum(1)
        is_better = errors < self._errors
        self.scales, self.least = torch.where(is_better, scales, self.scales), torch.where(is_better, least, self.least)
        self._errors = torch.where(is_better, errors, self._errors)


def _symmetric(groups: torch.Tensor, scheme: Scheme, weights: torch.Tensor, best: _Best, is_searched: bool) -> None:
    """The number of largest size becomes the code -8, or one near it, or 7; then the scale that fits its codes best."""
    zero, weighted = groups.new_zeros(len(groups)), groups * weights
    largest = groups.gather(1, groups.abs().argmax(1, keepdim=True)).squeeze(1)
    low, high = scheme.codes
    ends = [high] if low == -high else [low, high]
    for end in ends:
        best.offer(largest / end, zero)
    if not is_searched:
        return
    tries = range(-_TRIES, _TRIES + 1) if scheme.bits == 4 else range(1)
    for end in ends:
        for step in tries:
            scales = largest / (end * (1 + step * _STEP))
            codes = codes_of(groups, scheme, scales.unsqueeze(1), zero.unsqueeze(1))
            below = (codes * codes * weights).sum(1)
            best.offer((codes * weighted).sum(1) / below.clamp(min=1e-30), zero)


def _asymmetric(groups: torch.Tensor, scheme: Scheme, weights: torch.Tensor, best: _Best, is_searched: bool) -> None:
    """Codes from the least to the largest number, or a range cut on both sides; then the line that fits them best."""
    low, high = groups.amin(1), groups.amax(1)
    best.offer((high - low) / scheme.codes[1], low)
    if not is_searched:
        return
    weighted, sum_weights = groups * weights, weights.sum(1)
    sum_numbers = weighted.sum(1)
    for step in range(-2, 2 * _TRIES):
        cut = (high - low) * (step * _STEP)
        scales, least = (high - low - cut) / scheme.codes[1], low + cut / 2
        codes = codes_of(groups, scheme, scales.unsqueeze(1), least.unsqueeze(1))
        sum_codes = (codes * weights).sum(1)
        sum_squares = (codes * codes * weights).sum(1)
        sum_products = (codes * weighted).sum(1)
        below = sum_weights * sum_squares - sum_codes * sum_codes
        fitted = torch.where(below > 0, (sum_weights * sum_products - sum_codes * sum_numbers) / below, scales)
        best.offer(fitted, (sum_numbers - fitted * sum_codes) / sum_weights)

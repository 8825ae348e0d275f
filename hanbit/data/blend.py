"""Several sources as one: each has its share of the samples, and its own epochs.

Which source a sample comes from is decided by its number alone (hanbit/data/shares.py), which of the source's samples
it is by the source's own order; a small source begins again, shuffled anew, while a large one is in its first epoch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hanbit.data.apart import Arrays
from hanbit.data.numbered import Numbered
from hanbit.data.shares import Shares


@dataclass(frozen=True)
class Drawn:
    """What a run takes from one source: `samples` of `epoch`, `share` of all."""

    name: str
    share: float
    samples: int
    epoch: int

    @property
    def passes(self) -> float:
        return self.samples / self.epoch


class Blend:
    """`sources` by name; `weights` beside them, finite and above zero, or None: by the number of samples."""

    def __init__(self, sources: dict[str, Numbered], weights: Sequence[float] | None) -> None:
        self.names, self._sources = list(sources), list(sources.values())
        self._shares = Shares([len(source) for source in self._sources] if weights is None else weights)

    def __len__(self) -> int:
        """Samples until the first source begins again: no sample comes twice among them."""
        lengths = [len(source) for source in self._sources]
        return max(1, min(int(one / share) for one, share in zip(lengths, self._shares.weights, strict=True)))

    @cached_property
    def digest(self) -> str:
        parts = zip(self._shares.parts, self._sources, strict=True)
        return "; ".join(f"{part}/{self._shares.period} of {len(one)} samples, {one.digest}" for part, one in parts)

    def arrays(self, indices: Sequence[int] | np.ndarray) -> Arrays:
        """As `Numbered.arrays`."""
        chosen, numbers = self._shares.source_of(np.asarray(indices, np.int64))
        found: Arrays = {}
        for place in np.unique(chosen):
            rows = np.flatnonzero(chosen == place)
            for name, part in self._sources[place].arrays(numbers[rows]).items():
                found.setdefault(name, np.empty((len(chosen), *part.shape[1:]), part.dtype))[rows] = part
        return found

    def count_targets(self, first: int, count: int) -> int:
        """As `Numbered.count_targets`."""
        borders = zip(
            self._sources, self._shares.taken_before(first), self._shares.taken_before(first + count), strict=True
        )
        return sum(source.count_targets(begin, end - begin) for source, begin, end in borders)

    def drawn(self, samples: int) -> list[Drawn]:
        """What the first `samples` samples take from each source."""
        taken = zip(self.names, self._shares.weights, self._shares.taken_before(samples), self._sources, strict=True)
        return [Drawn(name, share, count, len(source)) for name, share, count, source in taken]

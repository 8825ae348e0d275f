"""What training asks of its data, whatever it is made of: samples by number, as a table of arrays."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from hanbit.data.apart import Arrays


class Numbered(Protocol):
    """Samples 0, 1, 2, ... without end: after the last one of an epoch they come again, in another order."""

    def __len__(self) -> int:
        """Samples of one epoch."""
        ...

    @property
    def digest(self) -> str:
        """Of all that decides what a number means but length and seed: what a resumed run must find again."""
        ...

    def arrays(self, indices: Sequence[int] | np.ndarray) -> Arrays:
        """A batch by name: "tokens" and "targets" [len(indices), sequence_length] int64, owned by the caller.

        A target below 0 counts nothing. Where documents are kept apart, "documents" and "positions" too.
        """
        ...

    def count_targets(self, first: int, count: int) -> int:
        """Targets that count, of `count` samples from global index `first` on."""
        ...

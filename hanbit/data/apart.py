"""Several documents in one row, kept apart: which token is of which, and which of them share a row.

A model that is given "documents" attends only inside each of them (models/layers/attend.py), and "positions" restart
in each, so that a document in company comes out as it would alone.
"""

import bisect
from collections.abc import Sequence

import numpy as np

IGNORED = -1  # a target that nobody learns to say

Arrays = dict[str, np.ndarray]


def kept_apart(begins: Sequence[np.ndarray], length: int) -> Arrays:
    """As arrays "documents", numbered from 0 in each row, and "positions"; [rows, length] int64 both.

    begins: of each row the places where its second, third, ... document begins, rising; those from `length` on are
    beyond the row.
    """
    marks = np.zeros((len(begins), length), np.int64)
    for row, places in zip(marks, begins, strict=True):
        row[places[places < length]] = 1
    places = np.arange(length)
    return {"documents": marks.cumsum(1), "positions": places - np.maximum.accumulate(marks * places, axis=1)}


def packed(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Which documents share a row of `room` tokens: the longest first, each where it fits best.

    Every document is in one row, by its number in `lengths`, none of which is above `room`.
    """
    rows: list[list[int]] = []
    by_space: dict[int, list[int]] = {}  # tokens left -> rows
    spaces: list[int] = []  # the keys of by_space, rising
    for document in sorted(range(len(lengths)), key=lambda one: (-lengths[one], one)):
        at = bisect.bisect_left(spaces, lengths[document])
        if at == len(spaces):
            row, space = len(rows), room
            rows.append([])
        else:
            space = spaces[at]
            row = by_space[space].pop()
            if not by_space[space]:
                del by_space[space], spaces[at]
        rows[row].append(document)
        left = space - lengths[document]
        if left not in by_space:
            bisect.insort(spaces, left)
        by_space.setdefault(left, []).append(row)
    return rows

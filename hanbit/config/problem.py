"""One thing that does not fit in a recipe, as people are told of it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """`key`: the one to change, whose place is told."""

    key: str
    rule: str
    way_out: str

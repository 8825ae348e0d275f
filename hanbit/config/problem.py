"""One thing that does not fit in a recipe, as people are told of it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """`key`: the one to change, whose place is told."""

    key: str
    rule: str
    way_out: str


def unproven(key: str, rule: str, beside: Mapping[str, bool]) -> Iterator[Problem]:
    """One for each setting of `beside` that is set; `{}` in `rule` is the place of the setting."""
    for setting, is_set in beside.items():
        if is_set:
            yield Problem(key, rule.format(setting), "Leave one of them out")

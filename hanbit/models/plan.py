"""The sharding words: one declaration per family that training, the engine, conversion and the planner all read.

A family's `plan.py` lists every parameter once, as a name pattern (`*` stands for one dotted part) with a word:

    COLUMN      rows of the weight are cut (output features); the bias with them
    ROW         columns of the weight are cut (input features); the bias stays whole and is added after the sum
    VOCABULARY  rows of an embedding or of the output projection are cut by token id
    REPLICATE   every rank has the whole, and uses it on the whole; between regions on its part of a split sequence
    SHARED      every rank has the whole, but uses it on its own part (a norm over single heads): gradients are partial
                and must be summed, else they are silently wrong

`unit` names the model constant that a cut must keep whole: `heads`, `key_value_heads` (cut in whole heads),
`inner` or `vocabulary`. `REGIONS` are the modules where tensor-parallel work starts: their input is the same on
every rank, and its gradient must be summed once there, not in each linear layer of the region.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Any


class Word(Enum):
    COLUMN = "column"
    ROW = "row"
    VOCABULARY = "vocabulary"
    REPLICATE = "replicate"
    SHARED = "shared"


@dataclass(frozen=True)
class Rule:
    """`pattern` matches a parameter's dotted name without its stage; `unit` is a field of the model's config.

    is_stack: dim 0 counts experts, each of which has the word for its own matrix; whole experts are shared out over
    the expert axis.
    """

    pattern: str
    word: Word
    unit: str | None = None
    is_stack: bool = False

    def matches(self, name: str) -> bool:
        return _compiled(self.pattern).fullmatch(name) is not None


@dataclass(frozen=True)
class Plan:
    rules: tuple[Rule, ...]
    regions: tuple[str, ...]  # module patterns whose input gradient is summed over the tensor axis
    first: tuple[str, ...]  # top-level modules of the first pipeline stage, used by `embed`
    last: tuple[str, ...]  # top-level modules of the last stage, used by `head`
    repeat: str = "layers"  # the ModuleDict whose entries are shared out over the stages
    tied: tuple[tuple[str, str], ...] = ()  # (copy, original): one value, e.g. ("output.weight", "embedding.weight")
    # top-level module -> the layers whose stages use it, of a config; None: first and last say all there is
    used_by: Callable[[Any], dict[str, range]] | None = None

    def rule_of(self, name: str) -> Rule:
        """The one rule for a parameter; a name that no rule or two rules match is our own mistake."""
        found = [rule for rule in self.rules if rule.matches(name)]
        assert len(found) == 1, f"{name} is matched by {len(found)} rules of the plan, expected 1"
        return found[0]

    def is_region(self, module_name: str) -> bool:
        return any(_compiled(pattern).fullmatch(module_name) for pattern in self.regions)

    def is_in_region(self, name: str) -> bool:
        """Is this module or parameter a part of a region?"""
        parts = name.split(".")
        return any(self.is_region(".".join(parts[:count])) for count in range(1, len(parts)))


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(re.escape(pattern).replace(r"\*", r"[^.]+"))

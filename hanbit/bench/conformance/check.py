"""A check: one sentence about a server that is true or not, where it is written, and a function that looks.

The function gets the server and returns what it saw, or None. It raises Failed with what it saw instead, NotOffered
where the server does not claim to have the thing.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hanbit.bench.conformance.server import Server

Look = Callable[[Server], Any]


class Failed(Exception):
    """What was seen, and what should have been."""


class NotOffered(Exception):
    """Why a check says nothing of this server."""


@dataclass(frozen=True)
class Check:
    """`id` is group.name; `extension`: the one of the server's metadata that it belongs to, None for the core."""

    id: str
    says: str
    source: str
    extension: str | None
    look: Look


@dataclass
class Group:
    """`source`: where the protocol says so, a page of the specification or of Triton's extensions."""

    name: str
    source: str
    extension: str | None = None
    checks: list[Check] = field(default_factory=list)

    def check(self, name: str, says: str, extension: str | None = None) -> Callable[[Look], Look]:
        """A decorator for the function that looks."""

        def add(look: Look) -> Look:
            self.add(name, says, look, extension)
            return look

        return add

    def add(self, name: str, says: str, look: Look, extension: str | None = None) -> None:
        id = f"{self.name}.{name}"
        assert all(one.id != id for one in self.checks), f"{id} is there twice"
        self.checks.append(Check(id, says, self.source, extension or self.extension, look))


def equal(seen: Any, wanted: Any, what: str) -> None:
    """Raises Failed."""
    if seen != wanted:
        raise Failed(f"{what} is {seen!r:.200}, not {wanted!r:.200}")


def true(seen: Any, what: str) -> None:
    """Raises Failed. `what` is the sentence that should be true."""
    if not seen:
        raise Failed(f"not so: {what}")

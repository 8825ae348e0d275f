"""The suite against one server: every check in its order, and what came of each."""

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from hanbit.bench.conformance.check import Check, Failed, Group, NotOffered
from hanbit.bench.conformance.groups import (
    binary,
    classification,
    clients,
    compression,
    datatypes,
    errors,
    generate,
    grpc_calls,
    grpc_infer,
    health,
    infer,
    models,
    parameters,
    sequence,
    settings,
    shared_memory,
    statistics,
)
from hanbit.bench.conformance.server import Server

GROUPS: tuple[Group, ...] = (
    health.GROUP, infer.GROUP, errors.GROUP, binary.GROUP, datatypes.GROUP, parameters.GROUP, parameters.SCHEDULE,
    classification.GROUP, sequence.GROUP, models.CONFIGURATION, models.REPOSITORY, statistics.GROUP, settings.TRACE,
    settings.LOGGING, shared_memory.GROUP, shared_memory.CUDA, generate.GROUP, compression.GROUP, grpc_calls.GROUP,
    grpc_infer.GROUP, grpc_infer.STREAM, clients.GROUP, compression.LAST, classification.LAST,
)  # fmt: skip
Outcome = Literal["pass", "fail", "not offered"]


@dataclass(frozen=True)
class Row:
    """`seen`: what there was to see, why it failed, or why it is not offered."""

    id: str
    outcome: Outcome
    says: str
    source: str
    seen: str
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def run(server: Server, only: Sequence[str] = (), say: Callable[[Row], object] = lambda row: None) -> list[Row]:
    """`only`: beginnings of ids; none is all. Raises LaunchError if there is no server there."""
    server.name()
    extensions = set(server.metadata.get("extensions", ()))
    rows = []
    with server.open():
        for check in _chosen(only):
            rows.append(_row(server, check, extensions))
            say(rows[-1])
    return rows


def summary(rows: Sequence[Row]) -> dict[str, Counter[str]]:
    """How many of each group came to what."""
    found: dict[str, Counter[str]] = {}
    for row in rows:
        found.setdefault(row.id.partition(".")[0], Counter())[row.outcome] += 1
    return found


def _chosen(only: Sequence[str]) -> Iterator[Check]:
    for group in GROUPS:
        for check in group.checks:
            if not only or check.id.startswith(tuple(only)):
                yield check


def _row(server: Server, check: Check, extensions: set[str]) -> Row:
    began = time.monotonic()
    if check.extension is not None and check.extension not in extensions:
        outcome: Outcome = "not offered"
        seen = f"the server does not list {check.extension}"
    else:
        outcome, seen = _outcome(server, check)
    return Row(check.id, outcome, check.says, check.source, _plain(seen), time.monotonic() - began)


def _outcome(server: Server, check: Check) -> tuple[Outcome, str]:
    """Whatever goes wrong in looking is what was seen: a server that ends in the midst, an answer that is no JSON."""
    try:
        return "pass", str(check.look(server) or "")
    except NotOffered as problem:
        return "not offered", str(problem)
    except Failed as problem:
        return "fail", str(problem)
    except Exception as problem:
        return "fail", f"{type(problem).__name__}: {problem!s:.200}"


def _plain(text: str) -> str:
    """On one line."""
    return re.sub(r"\s+", " ", text)[:300]

"""Where a server is known to differ, and why: what a run is held against, so that a new difference is seen.

A difference is listed where the server's answer contradicts the written protocol, or HTTP's own rule that a request
that is wrong is the client's mistake. Where the protocol leaves it open, the check accepts what Triton does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hanbit.bench.conformance.run import Row


@dataclass(frozen=True)
class Difference:
    """`ids`: of the checks that fail for this reason."""

    why: str
    ids: tuple[str, ...]


def _ids(group: str, names: str) -> tuple[str, ...]:
    return tuple(f"{group}.{name}" for name in names.split())


TRITON = (
    Difference(
        "JSON that cannot be read as the protocol's objects is answered with 500 (its parser's errors are INTERNAL)",
        (
            *_ids("errors", "not-json not-utf8 array no-inputs inputs-object no-name no-datatype no-shape"),
            *_ids("errors", "shape-text shape-fraction shape-negative data-few data-many data-text data-fraction"),
            *_ids("errors", "data-null output-no-name outputs-object id-number parameters-list bool-number"),
            *_ids("errors", "unsigned-negative"),
            *_ids("binary", "size-negative"),
            *_ids("schedule", "timeout-text timeout-negative priority-text priority-negative"),
            *_ids("classification", "negative no-number"),
            *_ids("sequence", "start-text"),
            *_ids("repository", "index-not-json load-config-number load-parameter-unknown"),
            *_ids("trace", "rate-number level-text not-json"),
            *_ids("logging", "info-text level-negative level-text not-json"),
            *_ids("system-shm", "register-offset-negative"),
            *_ids("generate", "type not-json"),
        ),
    ),
    Difference(
        "other mistakes of the client are answered with 500, 503 or INTERNAL",
        (
            *_ids("repository", "load-config-no-json load-config-other-name load-files-without-config load-file-above"),
            *_ids("repository", "load-no-model load-traversal"),
            *_ids("logging", "format-unknown"),
            *_ids("system-shm", "register-key-unknown register-key-path use-out-small"),
            *_ids("grpc", "load-no-model"),
        ),
    ),
    Difference(
        "numbers beyond their datatype are cut or become infinite instead of being refused",
        (*_ids("errors", "data-too-large"), *_ids("datatypes", "too-large-fp32 too-large-uint8")),
    ),
    Difference("settings of a trace that there are not are taken", _ids("trace", "rate-negative level-unknown")),
    Difference("BYTES that are no UTF-8 come in JSON as they are", ("datatypes.no-text-as-json",)),
    Difference("binary_data_output is ignored where outputs are named", ("binary.out-wish",)),
    Difference(
        "an ensemble of which fewer outputs are asked for than it has may end in `unexpected deadlock`",
        ("infer.ensemble-one-output",),
    ),
    Difference("files of a load with the configuration of before are ignored", ("repository.load-other-files",)),
    Difference(
        "an error that a Python model answers counts as a success, and its responses are not counted",
        _ids("statistics", "failure responses"),
    ),
    Difference(
        "a region that begins within the memory must begin at a page, and is then read from twice its offset: "
        "other memory of the server's comes out",
        _ids("system-shm", "offset-page offset"),
    ),
    Difference("an error of generate is sent after a 200", ("generate.two-of-a-stream",)),
    Difference("a packed body that is cut, or 256 MiB of it, is read to its end", ("compression.cut", "large.bomb")),
    Difference("more raw_input_contents than inputs are taken", ("grpc-infer.bad-many-raw",)),
    Difference("the health service says SERVING for services that there are not", ("grpc.health-unknown",)),
    Difference("classification of BYTES ends the server", ("survives.classification-of-text",)),
)
KNOWN: Mapping[str, tuple[Difference, ...]] = {"triton": TRITON, "hanbit": ()}


def why(name: str, id: str) -> str | None:
    """Why a check is known to fail with the server of that name; None if it is not."""
    return next((one.why for one in KNOWN.get(name, ()) if id in one.ids), None)


def unknown(name: str, rows: Sequence[Row]) -> list[Row]:
    """Rows that fail though nobody said so."""
    return [row for row in rows if row.outcome == "fail" and why(name, row.id) is None]


def outdated(name: str, rows: Sequence[Row]) -> list[Row]:
    """Rows that pass though they are listed as failing."""
    return [row for row in rows if row.outcome == "pass" and why(name, row.id) is not None]

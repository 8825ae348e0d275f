"""Requests that belong together."""

from typing import Any

from hanbit.bench.conformance.check import Group, equal
from hanbit.bench.conformance.repository import PREFIX
from hanbit.bench.conformance.server import Reply, Server
from hanbit.bench.conformance.wire import SIMPLE, SUM, data_of, ok, pair, refused, tensor

GROUP = Group("sequence", "Triton: extension_sequence", "sequence")
_BY_TEXT = "sequence(string_id)"


def _ask(server: Server, number: int, id: int | str, start: bool = False, end: bool = False) -> Reply:
    model = f"{PREFIX}sequence_by_text" if isinstance(id, str) else f"{PREFIX}sequence"
    parameters: dict[str, Any] = {"sequence_id": id, "sequence_start": start, "sequence_end": end}
    return server.infer(model, [tensor("IN", "INT32", [number], [1, 1])], parameters=parameters)


def _sums(server: Server, id: int | str, *numbers: int) -> list[int]:
    """Of one sequence from its start to its end."""
    last = len(numbers) - 1
    replies = [_ask(server, number, id, place == 0, place == last) for place, number in enumerate(numbers)]
    return [data_of(ok(reply), "OUT")[0] for reply in replies]


@GROUP.check("sum", "requests of one sequence_id meet the same state, from start to end")
def _sum(server: Server) -> None:
    equal(_sums(server, 42, 1, 2, 3), [1, 3, 6], "sums")


@GROUP.check("two", "two sequences at a time do not meet")
def _two(server: Server) -> None:
    found = [
        data_of(ok(_ask(server, number, id, start, end)), "OUT")[0]
        for number, id, start, end in (
            (1, 7, True, False), (10, 8, True, False), (2, 7, False, True), (20, 8, False, True),
        )
    ]  # fmt: skip
    equal(found, [1, 10, 3, 30], "sums")


@GROUP.check("again", "a sequence_start of a sequence that goes on begins it anew")
def _again(server: Server) -> None:
    _ask(server, 5, 9, start=True)
    equal(_sums(server, 9, 1, 1), [1, 2], "sums")


@GROUP.check("largest-id", "the sequence_id 2^64 - 1 is taken")
def _largest(server: Server) -> None:
    equal(_sums(server, 2**64 - 1, 1, 2), [1, 3], "sums")


@GROUP.check("no-id", "a request without sequence_id is refused by a model of sequences")
def _no_id(server: Server) -> str:
    return refused(server.infer(f"{PREFIX}sequence", [tensor("IN", "INT32", [1], [1, 1])]))


@GROUP.check("no-start", "a first request without sequence_start is refused")
def _no_start(server: Server) -> str:
    return refused(_ask(server, 1, 43))


@GROUP.check("after-the-end", "a sequence that has ended needs a start again")
def _after(server: Server) -> str:
    _sums(server, 44, 1)
    return refused(_ask(server, 1, 44))


@GROUP.check("start-text", "a sequence_start that is no truth value is refused")
def _start_text(server: Server) -> str:
    parameters = {"sequence_id": 45, "sequence_start": "yes"}
    return refused(server.infer(f"{PREFIX}sequence", [tensor("IN", "INT32", [1], [1, 1])], parameters=parameters))


@GROUP.check("batch", "a batch of two is refused by a model of sequences")
def _batch(server: Server) -> str:
    parameters = {"sequence_id": 46, "sequence_start": True, "sequence_end": True}
    return refused(server.infer(f"{PREFIX}sequence", [tensor("IN", "INT32", [1, 2], [2, 1])], parameters=parameters))


@GROUP.check("ignored", "a model without sequences takes a sequence_id and goes on")
def _ignored(server: Server) -> None:
    parameters = {"sequence_id": 47, "sequence_start": True}
    equal(data_of(ok(server.infer(SIMPLE, pair(), parameters=parameters)), "OUTPUT0"), SUM, "OUTPUT0")


@GROUP.check("text-id", "a sequence_id may be a text", _BY_TEXT)
def _text_id(server: Server) -> None:
    equal(_sums(server, "왼쪽", 1, 2, 3), [1, 3, 6], "sums")

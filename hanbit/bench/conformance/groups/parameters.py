"""Parameters of a request, and those that say when it is worked on."""

import json
import threading
import time
from collections.abc import Callable
from typing import Any

from hanbit.bench.conformance.check import Failed, Group, equal, true
from hanbit.bench.conformance.repository import PREFIX
from hanbit.bench.conformance.server import Reply, Server
from hanbit.bench.conformance.wire import SIMPLE, SUM, data_of, ok, pair, refused, tensor

GROUP = Group("parameters", "Triton: extension_parameters", "parameters")
SCHEDULE = Group("schedule", "Triton: extension_schedule_policy", "schedule_policy")
_MODEL, _SLOW = f"{PREFIX}parameters", f"{PREFIX}slow"


def _seen(server: Server, **more: Any) -> dict[str, Any]:
    """What the model saw of a request."""
    found = ok(server.infer(_MODEL, [tensor("IN", "INT32", [1])], **more))
    return json.loads(data_of(found, "OUT")[0])


@GROUP.check("reach-the-model", "numbers, texts and truth values reach the model as they are")
def _reach(server: Server) -> None:
    wanted = {"a": -1, "b": "텍스트", "c": True, "d": 1.5}
    equal(_seen(server, parameters=wanted)["parameters"], wanted, "what the model saw")


@GROUP.check("none", "a request without parameters has none")
def _none(server: Server) -> None:
    equal(_seen(server)["parameters"], {}, "what the model saw")


@GROUP.check("protocol-own", "the protocol's own parameters are not shown to the model as custom ones")
def _own(server: Server) -> None:
    own = {"priority": 1, "timeout": 5_000_000, "sequence_id": 5, "sequence_start": True, "sequence_end": True}
    equal(_seen(server, parameters={**own, "mine": 1})["parameters"], {"mine": 1}, "what the model saw")


@GROUP.check("id", "the model sees the request's id")
def _id(server: Server) -> None:
    equal(_seen(server, id="an id")["id"], "an id", "id")


@GROUP.check("timeout", "the model sees the request's timeout in microseconds")
def _timeout(server: Server) -> None:
    equal(_seen(server, parameters={"timeout": 5_000_000})["timeout"], 5_000_000, "timeout")


def _refusing(parameters: dict[str, Any]) -> Callable[[Server], str]:
    return lambda server: refused(server.infer(_MODEL, [tensor("IN", "INT32", [1])], parameters=parameters))


_Given = tuple[str, str, dict[str, Any]]
_CUSTOM: tuple[_Given, ...] = (
    ("null", "a parameter that is null", {"a": None}),
    ("list", "a parameter that is a list", {"a": [1]}),
    ("reserved", "a parameter that begins with triton_", {"triton_mine": 1}),
)
_OWN: tuple[_Given, ...] = (
    ("timeout-text", "a timeout that is no number", {"timeout": "5"}),
    ("timeout-negative", "a negative timeout", {"timeout": -1}),
    ("priority-text", "a priority that is no number", {"priority": "1"}),
    ("priority-negative", "a negative priority", {"priority": -1}),
)
for _name, _what, _given in _CUSTOM:
    GROUP.add(_name, f"{_what} is refused", _refusing(_given))
for _name, _what, _given in _OWN:
    SCHEDULE.add(_name, f"{_what} is refused", _refusing(_given))


def _ask(server: Server, milliseconds: int, **parameters: Any) -> Reply:
    return server.infer(_SLOW, [tensor("DELAY", "UINT32", [milliseconds], [1, 1])], parameters=parameters)


def _behind(server: Server, *requests: dict[str, Any]) -> list[Reply]:
    """Answers of requests that wait, one after another, behind one that takes half a second."""
    found: list[Reply | None] = [None] * (len(requests) + 1)

    def one(place: int, milliseconds: int, parameters: dict[str, Any]) -> None:
        found[place] = _ask(server, milliseconds, **parameters)

    threads = [
        threading.Thread(target=one, args=(place, 500 if place == 0 else 1, parameters))
        for place, parameters in enumerate(({}, *requests))
    ]
    for thread in threads:
        thread.start()
        time.sleep(0.1)
    for thread in threads:
        thread.join()
    return [reply for reply in found if reply is not None]


@SCHEDULE.check(
    "priority", "of two that wait the one of priority 1 goes before the one of priority 2, which came first"
)
def _priority(server: Server) -> str:
    _, low, high = (data_of(ok(reply), "ORDER")[0] for reply in _behind(server, {"priority": 2}, {"priority": 1}))
    true(high < low, f"answered {high} comes before {low}")
    return f"{high} before {low}"


@SCHEDULE.check("same-priority", "of two of the same priority the first goes first")
def _same(server: Server) -> None:
    _, first, second = (data_of(ok(reply), "ORDER")[0] for reply in _behind(server, {"priority": 2}, {"priority": 2}))
    true(first < second, f"answered {first} comes before {second}")


@SCHEDULE.check("timeout", "one that waits longer than its timeout is refused with 503, the one before it is not")
def _queue_timeout(server: Server) -> str:
    first, second = _behind(server, {"timeout": 50_000})
    equal(first.status, 200, "the first one's status")
    return refused(second, 503)


@SCHEDULE.check("max-queue", "more than max_queue_size that wait are refused with 503, the others are answered")
def _queue_full(server: Server) -> str:
    replies: list[Reply] = []
    threads = [threading.Thread(target=lambda: replies.append(_ask(server, 150))) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    statuses = sorted(reply.status for reply in replies)
    if set(statuses) != {200, 503}:
        raise Failed(f"statuses {statuses}")
    true(4 <= statuses.count(200) <= 6, f"of 12 there are 1 + 4 answered, not {statuses.count(200)}")
    return f"{statuses.count(200)} of 12 answered"


@SCHEDULE.check("ignored", "a model without priorities takes a priority and goes on")
def _ignored(server: Server) -> None:
    equal(data_of(ok(server.infer(SIMPLE, pair(), parameters={"priority": 1})), "OUTPUT0"), SUM, "OUTPUT0")

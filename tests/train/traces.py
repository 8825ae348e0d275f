"""Chrome's trace events read as the format's document has them, by nothing of ours."""

import itertools
from typing import Any

Event = dict[str, Any]


def complete(events: list[Event]) -> list[Event]:
    return [event for event in events if event["ph"] == "X"]


def step_of(events: list[Event], rank: int) -> Event:
    (step,) = (event for event in complete(events) if event["name"] == "step" and event["pid"] == rank)
    return step


def check_format(events: list[Event]) -> None:
    """Sorted complete events, each on a lane that has a name, of which no two cross; a viewer would drop such."""
    named = {(event["pid"], event["tid"]) for event in events if event["name"] == "thread_name"}
    ranks = {event["pid"] for event in events if event["name"] == "process_name"}
    found = complete(events)
    assert {event["ph"] for event in events} == {"M", "X"}
    assert [event["ts"] for event in found] == sorted(event["ts"] for event in found)
    assert all(event["dur"] >= 0 and event["ts"] >= 0 and event["name"] and event["cat"] for event in found)
    assert {(event["pid"], event["tid"]) for event in found} == named
    assert {event["pid"] for event in found} == ranks
    for lane in named:
        open_until: list[float] = []
        for event in found:
            if (event["pid"], event["tid"]) != lane:
                continue
            while open_until and open_until[-1] <= event["ts"] + 1e-4:  # 0.1 ns: what a float leaves of a sum
                open_until.pop()
            end = event["ts"] + event["dur"]
            assert not open_until or end <= open_until[-1] + 1e-4, "crosses the one before"
            open_until.append(end)


def own_seconds(events: list[Event], step: Event) -> dict[str, float]:
    """By category what is each event's own, what lies inside of it taken off, over all lanes of the step's rank."""
    inside = [
        event
        for event in complete(events)
        if event["pid"] == step["pid"] and step["ts"] <= event["ts"] < step["ts"] + step["dur"]
    ]
    seconds: dict[str, float] = {}
    moments = sorted({moment for event in inside for moment in (event["ts"], event["ts"] + event["dur"])})
    for begin, end in itertools.pairwise(moments):
        around = [event for event in inside if event["ts"] <= begin and end <= event["ts"] + event["dur"] + 1e-4]
        innermost = min(around, key=lambda event: event["dur"])
        seconds[innermost["cat"]] = seconds.get(innermost["cat"], 0.0) + (end - begin) / 1e6
    return seconds

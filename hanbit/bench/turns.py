"""Several programs take turns on one machine, so that its mood meets all of them alike.

Protocol of a contestant, on its standard input and output, one JSON object a line: it prints {"ready": ...} once,
then for every line `{"steps": n}` it reads it does n steps and prints {"seconds": s, "results": [...]}; it ends at the
end of its input. Results show that all did the same work: losses, tokens. Lines that are no JSON object (other people's
programs talk) are passed over.
"""

import json
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

from hanbit.common.errors import LaunchError


@dataclass
class Contestant:
    name: str
    command: Sequence[str]
    environment: dict[str, str]
    seconds: list[float] = field(default_factory=list)
    results: list[float] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def take_turns(contestants: Sequence[Contestant], rounds: int, steps: int, warm_up: int, logs: Path) -> None:
    """Start all; every round each does `steps` steps in turn, the order reversed each time. Fills `seconds` a step."""
    running = []
    try:
        for contestant in contestants:
            log = open(logs / f"{contestant.name.replace(' ', '_')}.log", "w")  # noqa: SIM115 - for the process
            running.append(_start(contestant, log))
            contestant.facts = _answer(running[-1], contestant, "ready", logs)
        for contestant, process in zip(contestants, running, strict=True):
            _ask(process, warm_up)
            contestant.results += _answer(process, contestant, "seconds", logs)["results"]
        for turn in range(rounds):
            pairs = list(zip(contestants, running, strict=True))
            for contestant, process in pairs if turn % 2 == 0 else pairs[::-1]:
                _ask(process, steps)
                answer = _answer(process, contestant, "seconds", logs)
                contestant.seconds.append(answer["seconds"] / steps)
                contestant.results += answer["results"]
    finally:
        for process in running:
            process.kill()
            process.wait()


def take_turns_telling(contestants: Sequence[Contestant], rounds: int, steps: int, warm_up: int, logs: Path) -> None:
    """As `take_turns`; if one ends early, the last words of all are in the error, for `logs` that are removed."""
    try:
        take_turns(contestants, rounds, steps, warm_up, logs)
    except LaunchError as problem:
        words = "\n".join(path.read_text()[-2000:] for path in sorted(logs.glob("*.log")))
        raise LaunchError(f"{problem}\n{words}") from None


def ratios(one: Contestant, other: Contestant) -> list[float]:
    """How many times faster `one` was than `other`, round by round."""
    return [theirs / ours for ours, theirs in zip(one.seconds, other.seconds, strict=True)]


def _start(contestant: Contestant, log: IO[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        list(contestant.command),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        env=contestant.environment,
    )


def _ask(process: "subprocess.Popen[str]", steps: int) -> None:
    stdin = cast(IO[str], process.stdin)
    stdin.write(json.dumps({"steps": steps}) + "\n")
    stdin.flush()


def _answer(process: "subprocess.Popen[str]", contestant: Contestant, key: str, logs: Path) -> dict[str, Any]:
    for line in cast(IO[str], process.stdout):
        try:
            answer = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(answer, dict) and key in answer:
            return answer
    raise LaunchError(f"{contestant.name} ended without an answer; its log is in {logs}")

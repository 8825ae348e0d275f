"""`hanbit bench serve --peer triton`: the same repository, the same clients, this server and the real Triton in turns.

An ensemble of three small Python models, each client a process of its own that asks one request after another; and
16 MiB of a tensor in and out of one. This server runs the models in processes of their own, as Triton does, and inside.
"""

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

from hanbit.bench.servers import Addresses, hanbit_serving
from hanbit.bench.three_steps import ENSEMBLE, SAME, write_three_steps
from hanbit.bench.triton import Triton
from hanbit.common.errors import LaunchError

Say = Callable[[str], None]
TRITON, OWN, INSIDE = "triton", "own processes", "inside"
PROTOCOLS = ("http", "grpc")
_BLOCK_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Plan:
    """`clients`: how many ask at the same time, each of these in turn; `requests` of each of them a round."""

    peer: Triton
    clients: tuple[int, ...] = (1, 4, 16)
    requests: int = 300
    blocks: int = 12
    rounds: int = 5


@dataclass
class Row:
    """`values`: seconds of the median request or requests a second, of each server, one a round."""

    what: str
    unit: str
    values: dict[str, list[float]] = field(default_factory=dict)

    def facts(self) -> list[dict[str, float | str]]:
        """Of each of ours: its median, Triton's, and the ratios ours / Triton's of the rounds."""
        theirs = self.values[TRITON]
        found: list[dict[str, float | str]] = []
        for name, ours in self.values.items():
            if name != TRITON:
                ratios = sorted(one / other for one, other in zip(ours, theirs, strict=True))
                found.append(
                    {
                        "work": self.what,
                        "models": name,
                        "unit": self.unit,
                        "hanbit": round(statistics.median(ours), 3),
                        "triton": round(statistics.median(theirs), 3),
                        "ratio": round(statistics.median(ratios), 3),
                        "lowest": round(ratios[0], 3),
                        "highest": round(ratios[-1], 3),
                    }
                )
        return found


def measure(plan: Plan, say: Say) -> list[Row]:
    """Raises ConfigError without the peer, LaunchError if a server or a client does not start or ends."""
    with tempfile.TemporaryDirectory(prefix="hanbit-bench-") as folder, contextlib.ExitStack() as stack:
        servers = _started(plan, Path(folder), stack)
        clients = [stack.enter_context(_client()) for _ in range(max(plan.clients))]
        rows: list[Row] = []
        for count in plan.clients:
            for protocol in PROTOCOLS:
                asked = {"model": ENSEMBLE, "input": "TEXT", "protocol": protocol, "requests": plan.requests}
                say(f"{count} clients, {protocol}, {plan.rounds} rounds")
                rows += _rows(f"three steps, {protocol}, {count} clients", clients[:count], servers, asked, plan.rounds)
        for protocol in PROTOCOLS:
            say(f"16 MiB in and out, {protocol}, {plan.rounds} rounds")
            asked = {"model": SAME, "input": "BLOCK", "size": _BLOCK_BYTES, "protocol": protocol}
            (row, _) = _rows(
                f"16 MiB, {protocol}", clients[:1], servers, asked | {"requests": plan.blocks}, plan.rounds
            )
            speeds = {name: [2 * _BLOCK_BYTES / 1e3 / one for one in values] for name, values in row.values.items()}
            rows.append(Row(f"16 MiB in and out, {protocol}", "MB/s", speeds))
        return rows


def _started(plan: Plan, folder: Path, stack: contextlib.ExitStack) -> dict[str, Addresses]:
    repositories = {"process": folder / "process", "inline": folder / "inline"}
    for place, repository in repositories.items():
        repository.mkdir()
        write_three_steps(repository, place)
    return {
        TRITON: stack.enter_context(plan.peer.serving(repositories["process"])),
        OWN: stack.enter_context(hanbit_serving(repositories["process"], folder / "own.log")),
        INSIDE: stack.enter_context(hanbit_serving(repositories["inline"], folder / "inside.log")),
    }


@contextlib.contextmanager
def _client() -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "hanbit.bench.serve_client"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            _answer(process)
            yield process
        finally:
            process.kill()


def _rows(
    what: str,
    clients: Sequence["subprocess.Popen[str]"],
    servers: dict[str, Addresses],
    asked: dict[str, Any],
    rounds: int,
) -> tuple[Row, Row]:
    latency = Row(f"{what}, median request", "ms", {name: [] for name in servers})
    rate = Row(f"{what}, all of them", "requests/s", {name: [] for name in servers})
    for turn in range(-1, rounds):  # the first warms up
        order = list(servers.items())
        for name, addresses in order if turn % 2 == 0 else order[::-1]:
            url = addresses.http if asked["protocol"] == "http" else addresses.grpc
            began = time.perf_counter()
            for client in clients:
                _tell(client, asked | {"url": url})
            found = [_answer(client)["latencies"] for client in clients]
            seconds = time.perf_counter() - began
            if turn >= 0:
                latency.values[name].append(1000 * statistics.median(one for client in found for one in client))
                rate.values[name].append(sum(map(len, found)) / seconds)
    return latency, rate


def _tell(process: "subprocess.Popen[str]", asked: dict[str, Any]) -> None:
    stdin = cast(IO[str], process.stdin)
    stdin.write(json.dumps(asked) + "\n")
    stdin.flush()


def _answer(process: "subprocess.Popen[str]") -> dict[str, Any]:
    line = cast(IO[str], process.stdout).readline()
    if not line:
        raise LaunchError("a client ended; it says why above")
    found: dict[str, Any] = json.loads(line)
    return found

"""The proof that the demo may be ended at any moment: nothing runs on, nothing half-written passes for whole.

The demo is started in an empty folder, by itself or by make, and ended at random moments: kill -9, SIGTERM, or Ctrl-C,
which a terminal sends to the whole process group. It goes on from what is there, so the kills wander through its
stages. In the end it runs through, its memory measured, and once more to see that it does nothing twice.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import hanbit
from hanbit.bench.descendants import Mark, command_of
from hanbit.common.errors import HanbitError, LaunchError
from hanbit.common.manifest import NAME, verify

PATIENCE_SECONDS = 60.0  # a run in training commits a checkpoint before it ends
_SAMPLE_SECONDS = 0.5
_PORTS = ("--http-port", "0", "--grpc-port", "0")
_ROOT = Path(hanbit.__file__).parents[1]


@dataclass(frozen=True)
class Kind:
    """`by_make`: make is what is ended, and the demo its child; `to_group`: as Ctrl-C."""

    signal: signal.Signals
    by_make: bool
    to_group: bool = False

    def __str__(self) -> str:
        victim = "make" if self.by_make else "the demo"
        return f"{self.signal.name} to {victim}{' and its group' if self.to_group else ''}"


KINDS = (
    Kind(signal.SIGKILL, by_make=False),
    Kind(signal.SIGKILL, by_make=True),
    Kind(signal.SIGTERM, by_make=False),
    Kind(signal.SIGTERM, by_make=True),
    Kind(signal.SIGINT, by_make=False),
    Kind(signal.SIGINT, by_make=True, to_group=True),  # make alone waits for its child
)


@dataclass(frozen=True)
class Kill:
    """`left`: commands that ran on; `damaged`: folders whose manifest does not fit, yet is there."""

    kind: Kind
    after_seconds: float
    stage: str
    gone_seconds: float
    left: tuple[str, ...]
    damaged: tuple[str, ...]

    @property
    def is_clean(self) -> bool:
        return not self.left and not self.damaged

    def __str__(self) -> str:
        found = "; ".join((*self.left, *self.damaged)) or "nothing left"
        return (
            f"{self.kind} after {self.after_seconds:.0f} s, in {self.stage}: {found}, {self.gone_seconds:.1f} s later"
        )


@dataclass(frozen=True)
class Ended:
    """A demo that came to its end by itself."""

    code: int
    printed: str
    seconds: float
    peak_bytes: int
    left: tuple[str, ...]


@dataclass
class Outcome:
    kills: list[Kill] = field(default_factory=list)
    runs: list[Ended] = field(default_factory=list)  # those after the last kill

    @property
    def is_good(self) -> bool:
        return all(kill.is_clean for kill in self.kills) and all(run.code == 0 and not run.left for run in self.runs)


class Demo:
    """One start of it in `folder`, with a home of its own and free ports."""

    def __init__(self, folder: Path, by_make: bool = False) -> None:
        self.mark = Mark()
        self.log = folder / "printed.txt"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                _make(folder) if by_make else [sys.executable, "-m", "hanbit", "demo", *_PORTS],
                cwd=folder,
                env={**os.environ, **_homes(folder), **self.mark.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_hear_interrupts,
            )

    @property
    def printed(self) -> str:
        return self.log.read_text(encoding="utf-8")

    @property
    def stage(self) -> str:
        titles = [line for line in self.printed.splitlines() if line.startswith("[")]
        return titles[-1] if titles else "its start"

    def end(self, kind: Kind) -> None:
        (os.killpg if kind.to_group else os.kill)(self.process.pid, kind.signal)

    def wait(self) -> Ended:
        """Until it ends by itself."""
        began, peak = time.monotonic(), 0
        try:
            while self.process.poll() is None:
                peak = max(peak, self.mark.memory_bytes())
                time.sleep(_SAMPLE_SECONDS)
            left = commands(self.mark.wait_until_gone(1))
        finally:
            self.mark.kill()
        return Ended(self.process.returncode, self.printed, time.monotonic() - began, peak, left)


def prove(count: int, folder: Path, seed: int, shortest: float, longest: float, say: Callable[[str], None]) -> Outcome:
    """`shortest`, `longest`: seconds between a start and its kill. `folder` is empty."""
    outcome, moments = Outcome(), random.Random(seed)
    kinds = _kinds(moments)
    while len(outcome.kills) < count:
        kill = kill_once(folder, next(kinds), moments.uniform(shortest, longest))
        if kill is None:
            say("the demo ended before its kill: from the beginning again")
            clear(folder)
            continue
        outcome.kills.append(kill)
        say(f"kill {len(outcome.kills)} of {count}: {kill}")
    for _ in range(2):
        demo = Demo(folder)
        outcome.runs.append(demo.wait())
        last = outcome.runs[-1]
        say(f"run: exit code {last.code}, {last.seconds:.0f} s, at most {last.peak_bytes / 1e9:.2f} GB")
    return outcome


def kill_once(folder: Path, kind: Kind, after_seconds: float) -> Kill | None:
    """None if the demo ended before. Raises LaunchError if it failed."""
    demo = Demo(folder, kind.by_make)
    try:
        demo.process.wait(timeout=after_seconds)
    except subprocess.TimeoutExpired:
        return _kill(demo, kind, after_seconds, folder)
    finally:
        demo.mark.kill()
    if demo.process.returncode != 0:
        raise LaunchError(f"the demo failed after {after_seconds:.0f} s or less:\n{demo.printed[-3000:]}")
    return None


def _kill(demo: Demo, kind: Kind, after_seconds: float, folder: Path) -> Kill:
    stage, began = demo.stage, time.monotonic()
    demo.end(kind)
    _reap(demo.process)
    left = commands(demo.mark.wait_until_gone(PATIENCE_SECONDS))
    return Kill(kind, after_seconds, stage, time.monotonic() - began, left, tuple(damaged(folder)))


def damaged(folder: Path) -> Iterator[str]:
    """What a manifest calls whole and is not."""
    for path in folder.rglob(NAME):
        try:
            verify(path.parent, json.loads(path.read_text(encoding="utf-8")), LaunchError)
        except (HanbitError, ValueError, KeyError) as problem:
            yield str(problem)


def clear(folder: Path) -> None:
    for name in ("data", "models", "runs"):
        shutil.rmtree(folder / name, ignore_errors=True)


def commands(processes: list[int]) -> tuple[str, ...]:
    return tuple(f"{command_of(process):.80} runs on" for process in processes)


def _kinds(moments: random.Random) -> Iterator[Kind]:
    """Each once in a random order, and again."""
    while True:
        yield from moments.sample(KINDS, len(KINDS))


def _reap(process: subprocess.Popen[bytes]) -> None:
    """In a thread of its own: a process that is not waited for stays as a zombie."""
    threading.Thread(target=process.wait, daemon=True).start()


def _hear_interrupts() -> None:
    """A shell's background jobs ignore Ctrl-C, and what they start inherits that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _make(folder: Path) -> list[str]:
    """The Makefile's own target, in this environment, which is not made again."""
    if not (folder / ".venv").exists():
        (folder / ".venv").symlink_to(sys.prefix)
    return ["make", "-f", str(_ROOT / "Makefile"), "-o", ".venv/.ready", "demo", f"FLAGS={' '.join(_PORTS)}"]


def _homes(folder: Path) -> dict[str, str]:
    homes = {"HOME": folder / "home", "HANBIT_HOME": folder / "home/hanbit", "TMPDIR": folder / "tmp"}
    for path in homes.values():
        path.mkdir(parents=True, exist_ok=True)
    return {name: str(path) for name, path in homes.items()}

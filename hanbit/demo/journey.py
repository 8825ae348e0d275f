"""The journey from raw text to two foreign clients: each stage a command of its own, stopped with us whatever happens.

prepare -> train on 2 processes -> generate; convert a real model -> tune -> deploy -> serve -> ask -> stop
"""

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from hanbit.common.errors import LaunchError
from hanbit.common.language import is_korean
from hanbit.demo import stages
from hanbit.demo.child import Child
from hanbit.demo.report import Answers, write_demo_report
from hanbit.demo.screen import Screen
from hanbit.demo.stage import Outcome, Stage

STAGES = 12
LOGS = Path(stages.RUN) / "logs" / "demo"
LOCK = LOGS / ".lock"
_READY = "ready"  # what the server's line says when clients may come
_READY_SECONDS = 120.0
_LAST_LINES = 12

Good = Callable[[Child], str]


class Journey:
    """`outcomes`: of the stages that are done, in order; `lock`: an open file that every command inherits. Raises
    LaunchError on the first that fails."""

    def __init__(self, screen: Screen, lock: int) -> None:
        self.screen = screen
        self._lock = lock
        self.outcomes: list[Outcome] = []
        self.answers: list[Answers] = []

    def train_from_scratch(self) -> None:
        self.run(stages.PREPARE, lambda _: stages.prepared())
        self.run(stages.TRAIN, lambda _: stages.trained(stages.RUN))
        self.run(stages.GENERATE, lambda child: child.lines[-1], has_answer=True)

    def adapt_a_real_model(self) -> None:
        self.run(stages.CONVERT, lambda _: stages.proven())
        self.run(stages.TUNE, lambda _: stages.trained(stages.ADAPTER_RUN))
        self.run(stages.EVALUATE, self._compare)
        self.run(stages.DEPLOY, lambda _: f"{stages.NAME}, {stages.ADAPTER}")

    def ask(self, http_port: int, grpc_port: int) -> None:
        for stage in (
            stages.ask_triton("http", http_port),
            stages.ask_triton("grpc", grpc_port),
            stages.ask_openai(http_port, stages.NAME, stages.QUESTION),
        ):
            self.run(stage, _answer, has_answer=True)
            if stages.ANSWER not in self.outcomes[-1].answer:
                raise LaunchError(f"{stage.title}: the answer {self.outcomes[-1].answer!r} has no {stages.ANSWER}")

    def ask_the_adapter(self, http_port: int) -> None:
        stage = stages.ask_openai(http_port, stages.ADAPTER, self.answers[0].prompt)
        self.run(stage, _answer, has_answer=True)

    def conclude(self, seconds: float) -> None:
        """The table on the screen, the page on disk."""
        titles = ("무엇을", "얼마나 오래", "얼마나 잘") if is_korean() else ("what", "how long", "how good")
        self.screen.table(titles, self.outcomes, seconds)
        self.screen.say(f"\n{write_demo_report(Path(stages.RUN), self.outcomes, self.answers)}")

    def _compare(self, child: Child) -> str:
        self.answers = stages.compared(child.lines[-1])
        return stages.shaped(child.lines[-1])

    def run(self, stage: Stage, good: Good, has_answer: bool = False) -> None:
        """One command from its start to its end."""
        self.screen.begin(stage)
        began = time.monotonic()
        child = self._start(stage)
        with _ended(child):
            code = child.wait()
        if code != 0:
            raise _failed(stage, child, f"ended with exit code {code}", self._log())
        answer = "\n".join(child.lines) if has_answer else ""
        self._done(Outcome(stage, time.monotonic() - began, good(child), answer))

    @contextlib.contextmanager
    def served(self, http_port: int, grpc_port: int) -> Iterator[Child]:
        """The server, ready; asked to end when the block ends."""
        stage = stages.serve(http_port, grpc_port)
        self.screen.begin(stage)
        began = time.monotonic()
        server = self._start(stage)
        with _ended(server):
            if not server.wait_for(_READY, _READY_SECONDS):
                raise _failed(stage, server, "was not ready", self._log())
            self._done(Outcome(stage, time.monotonic() - began, f"http://127.0.0.1:{http_port}"))
            yield server

    def _start(self, stage: Stage) -> Child:
        return Child(stage.command, self._log(), self.screen.show, [self._lock])

    def _done(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self.screen.end(outcome)

    def _log(self) -> Path:
        return LOGS / f"{len(self.outcomes) + 1:02d}.log"


@contextlib.contextmanager
def _ended(child: Child) -> Iterator[None]:
    """However the block is left, the child is not left running."""
    try:
        yield
    finally:
        if child.is_running:
            child.stop()


def _answer(child: Child) -> str:
    return " ".join(" ".join(child.lines).split())


def _failed(stage: Stage, child: Child, what: str, log: Path) -> LaunchError:
    last = "\n".join(f"  {line}" for line in child.lines[-_LAST_LINES:])
    return LaunchError(f"{stage.title}: {what}. Its last lines (all: {log}):\n{last}")


def free_port(wanted: int) -> int:
    """`wanted` if nothing listens there, else one that is free now."""
    for port in (wanted, 0):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return probe.getsockname()[1]
    raise LaunchError("no port of 127.0.0.1 is free")

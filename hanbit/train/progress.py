"""Progress as people read it: a live bar on a terminal, one plain line every few steps in a file."""

import logging
import sys
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hanbit.common.log import rank
from hanbit.common.units import readable_count, readable_seconds

logger = logging.getLogger(__name__)


class TrainingProgress:
    """Shows steps on rank 0; a context. `done`: steps of an earlier start; `every`: steps between plain lines."""

    def __init__(self, steps: int, done: int, every: int, tokens_per_step: int) -> None:
        self.steps, self.every, self.tokens_per_step = steps, every, tokens_per_step
        self._bar = _bar() if rank() == 0 and sys.stderr.isatty() else None
        self._task = self._bar.add_task("train", total=steps, completed=done, numbers="") if self._bar else None

    def __enter__(self) -> "TrainingProgress":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def show(self, step: int, loss: float, learning_rate: float, grad_norm: float, tokens_per_second: float) -> None:
        numbers = (
            f"loss {loss:.3f}  lr {learning_rate:.1e}  norm {grad_norm:.2f}  {readable_count(tokens_per_second)} tok/s"
        )
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=step, numbers=numbers)
            logger.debug("step %d/%d  %s", step, self.steps, numbers)
        elif step % self.every == 0 or step == self.steps or step == 1:
            logger.info("step %d/%d  %s%s", step, self.steps, numbers, self._left(step, tokens_per_second))

    def note(self, text: str) -> None:
        """A line of its own, above the bar where there is one."""
        if self._bar:
            self._bar.console.print(text)
            logger.debug(text)
        else:
            logger.info(text)

    def _left(self, step: int, tokens_per_second: float) -> str:
        if step == self.steps or tokens_per_second <= 0:
            return ""
        return f"  left {readable_seconds((self.steps - step) * self.tokens_per_step / tokens_per_second)}"


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[numbers]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )

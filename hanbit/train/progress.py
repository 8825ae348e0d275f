"""Progress as people read it: a live bar on a terminal, one plain line every few steps in a file."""

import logging
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hanbit.common.log import rank
from hanbit.common.units import readable_count, readable_seconds

logger = logging.getLogger(__name__)


class TrainingProgress:
    """Shows steps on rank 0; a context. `done`: steps of an earlier start; `every`: steps between plain lines."""

    def __init__(self, steps: int, done: int, every: int) -> None:
        self.steps, self.every = steps, every
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

    def show(self, numbers: Mapping[str, Any]) -> None:
        """numbers: a row of metrics.jsonl."""
        step, text = numbers["step"], line_of(numbers)
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=step, numbers=text)
            logger.debug("step %d/%d  %s", step, self.steps, text)
        elif step % self.every == 0 or step == self.steps or step == 1:
            left = f"  left {readable_seconds(numbers['time_left_seconds'])}" if step < self.steps else ""
            logger.info("step %d/%d  %s%s", step, self.steps, text, left)

    def note(self, text: str) -> None:
        """A line of its own, above the bar where there is one."""
        if self._bar:
            self._bar.console.print(text)
            logger.debug(text)
        else:
            logger.info(text)


def line_of(numbers: Mapping[str, Any]) -> str:
    """What one looks at while a run goes; mfu where the device's peak is known."""
    norm = numbers["grad_norm"]
    text = (
        f"loss {numbers['loss']:.3f}  lr {numbers['learning_rate']:.1e}  "
        f"{'skipped' if norm is None else f'norm {norm:.2f}'}  {readable_count(numbers['tokens_per_second'])} tok/s"
    )
    return text if numbers["mfu"] is None else f"{text}  mfu {numbers['mfu']:.0%}"


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[numbers]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )

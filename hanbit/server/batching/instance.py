"""What executes batches: the part that each back end of this kind brings."""

from collections.abc import Callable, Sequence
from typing import Protocol

from hanbit.server.batching.job import Job


class Instance(Protocol):
    """Executes one batch at a time; all on the event loop.

    `execute` begins: every job is sent its responses, the last one marked, or fails; `done` is called once the next
    batch may come, which for a decoupled model can be before the last response. Both may happen before `execute`
    returns. Nothing it raises is foreseen: what goes wrong is a job's failure.

    `is_ready`: it can take a batch, if it has none. When that changes by itself, it says so to whoever `watch`es. An
    instance that goes away fails its jobs first, and calls `done`.
    """

    is_ready: bool

    def watch(self, changed: Callable[[], None]) -> None: ...

    def execute(self, jobs: Sequence[Job], done: Callable[[], None]) -> None: ...

    def cancel(self, job: Job) -> None:
        """Nobody waits for its responses: tell the model, if it can be told."""

    def nobody_waits(self) -> None:
        """Of all jobs that it executes, for now or for good; the batch is not done."""

    async def close(self) -> None:
        """What it still does is cut off."""

"""One instance of a model that computes tensors: a thread of its own, so that the event loop goes on."""

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from hanbit.server.batching.job import Job
from hanbit.server.errors import RequestError, as_request_error
from hanbit.server.request import InferResponse
from hanbit.server.tensor_models.joining import Joining
from hanbit.server.tensors import Tensor

log = logging.getLogger(__name__)

Answer = dict[str, Tensor] | Exception


class Computing(Protocol):
    """A loaded model at its place."""

    def run(self, inputs: dict[str, np.ndarray], wanted: Sequence[str]) -> dict[str, np.ndarray]:
        """In a thread. Raises RequestError for what cannot be computed."""


class TensorInstance:
    """See batching/instance.py. A batch that fails is tried again request by request, so that nobody pays for what
    another has sent. `num_batches`: how often the model has computed."""

    def __init__(self, model: Computing, joining: Joining) -> None:
        self.is_ready = True
        self.num_batches = 0
        self._model, self._joining = model, joining
        self._loop = asyncio.get_running_loop()
        self._works: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        # A daemon: a computation that does not end keeps no server from ending.
        threading.Thread(target=_do, args=(self._works,), name="model", daemon=True).start()

    def watch(self, changed: Callable[[], None]) -> None:
        """It is there from its loading to its end."""

    def execute(self, jobs: Sequence[Job], done: Callable[[], None]) -> None:
        def in_thread() -> None:
            answers = self._answers(jobs)
            try:
                self._loop.call_soon_threadsafe(_deliver, jobs, answers, done)
            except RuntimeError:
                log.debug("a model answered behind the server's end")

        self._works.put(in_thread)

    def cancel(self, job: Job) -> None:
        """A computation has no way to be told."""

    def nobody_waits(self) -> None:
        """It ends by itself."""

    async def close(self) -> None:
        self.is_ready = False
        self._works.put(None)

    def _answers(self, jobs: Sequence[Job]) -> list[Answer]:
        try:
            return [*self._computed(jobs)]
        except Exception as problem:
            if len(jobs) == 1:
                return [problem]
        return [answer for job in jobs for answer in self._answers([job])]

    def _computed(self, jobs: Sequence[Job]) -> list[dict[str, Tensor]]:
        self.num_batches += 1
        requests = [job.request for job in jobs]
        outputs = self._model.run(self._joining.joined(requests), self._joining.wanted(requests))
        return self._joining.shared(outputs, [job.rows for job in jobs])


def _do(works: "queue.SimpleQueue[Callable[[], None] | None]") -> None:
    while (work := works.get()) is not None:
        work()
        del work


def _deliver(jobs: Sequence[Job], answers: Sequence[Answer], done: Callable[[], None]) -> None:
    for job, answer in zip(jobs, answers, strict=True):
        if isinstance(answer, Exception):
            job.fail(answer if isinstance(answer, RequestError) else as_request_error(answer))
        else:
            job.send(InferResponse(answer))
    done()

"""The back end of models that take batches: a queue before instances, each of which is busy with one batch at a time.

A request that finds a free instance is with it before `infer` waits for the first time: nothing here takes a turn of
the event loop, a thread or a task.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Generic, TypeVar

from tritonclient.grpc.model_config_pb2 import ModelConfig

from hanbit.common.errors import DeadlinePassed
from hanbit.server.batching.instance import Instance
from hanbit.server.batching.job import Job
from hanbit.server.batching.options import batch_options
from hanbit.server.batching.order import Order
from hanbit.server.batching.pick import choose
from hanbit.server.batching.queue import QueueFull, WaitingQueue
from hanbit.server.errors import RequestError
from hanbit.server.moments import Batch
from hanbit.server.request import InferRequest, InferResponse
from hanbit.server.requested import priority_level_of, timeout_seconds_of

Kind = TypeVar("Kind", bound=Instance)
Clock = Callable[[], int]


class Scheduler(Generic[Kind]):
    """A Backend (request.py), made on the event loop. `clock`: nanoseconds."""

    def __init__(self, config: ModelConfig, instances: Sequence[Kind], clock: Clock = time.monotonic_ns) -> None:
        self.instances = tuple(instances)
        self.options = batch_options(config)
        self.patience_seconds = 30.0
        self._name = config.name
        self._takes_batches = config.max_batch_size > 0
        self._clock = clock
        self._queue = WaitingQueue(self.options.levels)
        self.is_ending: Callable[[], bool] = lambda: False  # of the server: then nobody waits for what still runs
        self._order = Order() if self.options.preserve_ordering else None
        self._running: dict[Instance, Sequence[Job]] = {}
        self._instance_of: dict[Job, Instance] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0
        self._is_choosing = False
        self._is_closed = False
        self._loop = asyncio.get_running_loop()
        for instance in instances:
            instance.watch(self._instance_changed)

    @property
    def is_ready(self) -> bool:
        return any(instance.is_ready for instance in self.instances)

    @property
    def num_waiting(self) -> int:
        return len(self._queue)

    @property
    def num_running(self) -> int:
        return len(self._instance_of)

    def start(self) -> "Scheduler[Kind]":
        return self

    async def one(self, request: InferRequest) -> InferResponse:
        """Of a model that is not decoupled: its response, which may come with its end or before it."""
        job = self._job(request)
        timer = self._deadline(job)
        try:
            self._submit(job)
            response = await job.next()
            while not response.is_last:
                following = await job.next()
                response = InferResponse(response.outputs or following.outputs, following.is_last, response.parameters)
            return response
        finally:
            if timer is not None:
                timer.cancel()
            if not job.is_over:
                self._leave(job)

    async def infer(self, request: InferRequest) -> AsyncGenerator[InferResponse]:
        job = self._job(request)
        timer = self._deadline(job)
        try:
            self._submit(job)
            while True:
                response = await job.next()
                yield response
                if response.is_last:
                    return
        finally:
            if timer is not None:
                timer.cancel()
            if not job.is_over:
                self._leave(job)

    def close(self) -> None:
        """In a thread: nothing new is let in, what waits and runs has `patience_seconds` to end, then it is cut off."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()

    async def _close(self) -> None:
        self._is_closed = True
        deadline = self._loop.time() + (0 if self.is_ending() else self.patience_seconds)
        while (self.num_waiting or self._instance_of) and self._loop.time() < deadline:
            await asyncio.sleep(0.01)
        self.refuse_all(self._away())
        await asyncio.gather(*(instance.close() for instance in self.instances))

    def refuse_all(self, problem: RequestError) -> None:
        """Of those that wait for an instance."""
        for job in list(self._queue):
            self._queue.take(job)
            assert isinstance(job, Job)
            job.fail(problem)

    def _job(self, request: InferRequest) -> Job:
        """Raises RequestError for a priority or a timeout that is none."""
        rows, shapes = 1, None
        if self._takes_batches and request.inputs:
            rows = next(iter(request.inputs.values())).shape[0]
            others = [one.name for one in request.inputs.values() if one.shape[0] != rows]
            if others:
                raise RequestError("invalid", f"input {others[0]!r} has another number of rows than the first, {rows}")
        if self.options.is_dynamic:
            ragged = self.options.ragged
            shapes = tuple(
                sorted((name, () if name in ragged else one.shape[1:]) for name, one in request.inputs.items())
            )
        level, may_wait_ns = 0, 0
        if request.parameters:
            level = self.options.level_of(priority_level_of(request))
            may_wait_ns = int((timeout_seconds_of(request) or 0) * 1e9)
        else:
            level = self.options.default_level - 1
        return Job(request, rows, shapes, level, may_wait_ns)

    def _deadline(self, job: Job) -> asyncio.TimerHandle | None:
        """A request's timeout is for its whole stay, or for its waiting alone where the model's file says so."""
        if not job.may_wait_ns or self.options.levels[job.level].requests_may_shorten:
            return None
        return asyncio.get_running_loop().call_later(job.may_wait_ns / 1e9, self._is_late, job)

    def _is_late(self, job: Job) -> None:
        if not job.is_over:
            if not self._withdraw(job):
                self._tell_left(job)
            job.fail(DeadlinePassed(f"model {self._name!r} did not answer within the request's timeout"))
            self._ended(job)

    def _submit(self, job: Job) -> None:
        """Raises RequestError if it cannot wait."""
        free = self._free()
        if self._is_closed or (free is None and not self.is_ready):
            raise self._away()
        if self._order is not None:
            self._order.add(job)
            job.on_over = self._ended
        if free is not None and not self._queue and not self._is_choosing and not self.options.max_delay_ns:
            self._execute(free, [job])  # the usual case of a server that is not full
            return
        try:
            self._queue.put(job, self._clock())
        except QueueFull as problem:
            raise RequestError("busy", f"model {self._name!r}: {problem}; come again later") from None
        self._choose()

    def _away(self) -> RequestError:
        return RequestError(
            "unavailable", f"model {self._name!r} is not ready: it is starting again, or being unloaded"
        )

    def _choose(self) -> None:
        """Give free instances what may go now."""
        if self._is_choosing:  # an instance that is done at once calls from within
            return
        self._is_choosing = True
        try:
            while self._queue:
                free = self._free()
                if free is None and self._queue.next_end is None:
                    return
                now = self._clock()
                for late in self._queue.expired(now):
                    assert isinstance(late, Job)
                    late.fail(RequestError("busy", f"model {self._name!r} had no room for this request in its time"))
                    self._ended(late)
                choice = choose(self._queue, self.options, now) if free is not None else None
                if free is None or choice is None or not choice.batch:
                    self._look_again(choice.again_at if choice is not None else None)
                    return
                self._execute(free, [job for job in choice.batch if isinstance(job, Job)])
        finally:
            self._is_choosing = False

    def _free(self) -> Kind | None:
        for instance in self.instances:
            if instance.is_ready and instance not in self._running:
                return instance
        return None

    def _execute(self, instance: Kind, jobs: list[Job]) -> None:
        for job in jobs:
            self._take_out(job)
            self._instance_of[job] = instance
        self._running[instance] = jobs
        batch, now = Batch(sum(job.rows for job in jobs)), time.monotonic_ns()
        for job in jobs:
            moments = job.request.moments
            moments.begin, moments.batch = now, batch
        try:
            instance.execute(jobs, lambda: self._done(instance))
        except Exception as problem:  # a mistake of ours; whoever waits is told so
            for job in jobs:
                job.fail(problem)
            self._done(instance)
        now = time.monotonic_ns()
        for job in jobs:
            if not job.is_over:  # an instance on this loop has computed meanwhile
                job.request.moments.input_end = now

    def _take_out(self, job: Job) -> None:
        """Its turn has come."""
        self._queue.take(job)

    def _withdraw(self, job: Job) -> bool:
        """Nobody asks for it any more; False if it did not wait."""
        return self._queue.take(job)

    def _done(self, instance: Instance) -> None:
        for job in self._running.pop(instance, ()):
            if job.is_over:
                self._instance_of.pop(job, None)
            else:
                job.on_over = self._ended  # a decoupled model goes on with it
        self._choose()

    def _ended(self, job: Job) -> None:
        self._instance_of.pop(job, None)
        if self._order is not None:
            self._order.ended()

    def _leave(self, job: Job) -> None:
        job.leave()
        if not self._withdraw(job):
            self._tell_left(job)
        if self._order is not None:
            self._order.ended()

    def _tell_left(self, job: Job) -> None:
        instance = self._instance_of.get(job)
        if instance is None:
            return
        job.is_left = True
        instance.cancel(job)
        jobs = self._running.get(instance, [job])
        if all(one.is_over or one.is_left for one in jobs):
            instance.nobody_waits()

    def _instance_changed(self) -> None:
        if not self.is_ready:
            self.refuse_all(self._away())
        self._choose()

    def _look_again(self, at: int | None) -> None:
        ends = self._queue.next_end
        at = ends if at is None else at if ends is None else min(at, ends)
        if at is None:
            return
        if self._timer is not None:
            if self._timer_at <= at and not self._timer.cancelled():
                return
            self._timer.cancel()
        self._timer_at = at
        delay = max(0, at - self._clock()) / 1e9
        self._timer = asyncio.get_running_loop().call_later(delay, self._timer_rang)

    def _timer_rang(self) -> None:
        self._timer = None
        self._choose()

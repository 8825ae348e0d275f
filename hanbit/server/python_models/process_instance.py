"""One instance of a Python model in a process of its own, started again whenever it dies.

starting -> ready -> (died) -> waiting -> starting ...    A process that dies within `_SOON` seconds of being ready lets
the next one wait twice as long, up to half a minute. What it was at is answered by an error at once.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

from tritonclient.grpc.model_config_pb2 import ModelConfig

from hanbit.common.errors import RepositoryError
from hanbit.repository.config import is_decoupled
from hanbit.repository.config_json import config_text_json
from hanbit.server.batching.job import Job
from hanbit.server.batching.options import InstancePlace
from hanbit.server.errors import RequestError
from hanbit.server.python_models.ask import Server, controlled, responses_of, write_log
from hanbit.server.python_models.frames import Frame, Outgoing
from hanbit.server.python_models.outputs import Outputs
from hanbit.server.python_models.process import WorkerProcess
from hanbit.server.python_models.settings import PythonSettings
from hanbit.server.python_models.translate import asked_request, code_of, error_of, told_of
from hanbit.server.request import InferResponse
from hanbit.server.tensors import Tensor, from_raw, to_raw

log = logging.getLogger(__name__)

_SOON = 10.0
_FIRST_DELAY, _LONGEST_DELAY = 0.1, 30.0
_TO_BURY = 0.3  # seconds in which a process whose socket is closed is expected to have ended


class ProcessInstance:
    """See batching/instance.py. `place`: what the model's `initialize` is told."""

    def __init__(self, config: ModelConfig, settings: PythonSettings, place: InstancePlace, server: Server) -> None:
        self.is_ready = False
        self._name = config.name
        self._settings, self._place, self._server = settings, place, server
        self._configure(config)
        self._changed: Callable[[], None] = lambda: None
        self._done: Callable[[], None] | None = None
        self._batch: Sequence[Job] = ()
        self._jobs: dict[int, tuple[Job, list[int]]] = {}  # by number, with their places in shared memory
        self._numbers: dict[Job, int] = {}
        self._next = 1
        self._num_seen = 0
        self._worker: WorkerProcess | None = None
        self._words: dict[str, asyncio.Future[Frame]] = {}  # of a start: "loaded", "ready"
        self._asked: dict[int, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._patience: asyncio.TimerHandle | None = None
        self._ready_since = 0.0
        self._delay = 0.0
        self._is_closed = False

    def watch(self, changed: Callable[[], None]) -> None:
        self._changed = changed

    def _configure(self, config: ModelConfig) -> None:
        self._config = config
        self._outputs = Outputs(config)
        self._is_decoupled = is_decoupled(config)

    async def load(self) -> str | None:
        """Start a process and let it import the model: what its auto_complete_config makes of the configuration, as
        JSON, if it has one. Raises RepositoryError, the process gone."""
        try:
            async with asyncio.timeout(self._settings.start_seconds):
                return await self._loaded()
        except TimeoutError:
            raise await self._not_started(
                f"did not start in {self._settings.start_seconds:g} s (start_seconds)"
            ) from None
        except OSError as problem:
            raise await self._not_started(f"has no process: {problem}") from None
        except BaseException:
            await self._end_process(0)
            raise

    async def initialize(self, config: ModelConfig) -> None:
        """Behind `load`: ready for batches. Raises RepositoryError, the process gone."""
        self._configure(config)
        try:
            async with asyncio.timeout(self._settings.start_seconds):
                await self._initialized()
        except TimeoutError:
            seconds = self._settings.start_seconds
            raise await self._not_started(f"did not return from initialize in {seconds:g} s (start_seconds)") from None
        except BaseException:
            await self._end_process(0)
            raise

    def execute(self, jobs: Sequence[Job], done: Callable[[], None]) -> None:
        assert self._worker is not None
        self._done, self._batch = done, jobs
        outgoing = Outgoing(self._worker.arena)
        rows = []
        for job in jobs:
            number, self._next = self._next, self._next + 1
            num_placed = len(outgoing.placed)
            tensors = [
                outgoing.tensor(one.name, one.datatype, one.shape, to_raw(one)) for one in job.request.inputs.values()
            ]
            self._jobs[number] = (job, outgoing.placed[num_placed:])
            self._numbers[job] = number
            rows.append([number, *told_of(job.request, self._outputs.names), tensors])
        self._worker.send(outgoing, ["run", rows])

    def cancel(self, job: Job) -> None:
        if job in self._numbers and self._worker is not None:
            self._worker.say("cancel", [self._numbers[job]])

    def nobody_waits(self) -> None:
        if self._patience is None and self._done is not None:
            loop = asyncio.get_running_loop()
            self._patience = loop.call_later(self._settings.hang_seconds, self._is_hanging)

    async def close(self) -> None:
        """`finalize`, and the end of the process; it is killed if that takes too long."""
        self._is_closed = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._worker is not None:
            self._worker.say("end")
        await self._end_process(0 if self._batch else self._settings.hang_seconds)
        self._fail_all("is being unloaded")

    async def _loaded(self) -> str | None:
        settings = self._settings
        self._num_seen = 0
        self._words = {word: asyncio.get_running_loop().create_future() for word in ("loaded", "ready")}
        for future in self._words.values():
            future.add_done_callback(_retrieved)
        self._worker = await WorkerProcess.start(settings.interpreter, {})
        self._worker.listen(self._handle, self._died)
        text = config_text_json(self._config)
        self._worker.say("start", str(settings.folder), settings.version, settings.file, text)
        return (await self._words["loaded"]).value[1]

    async def _initialized(self) -> None:
        assert self._worker is not None
        self._worker.say("init", initialize_arguments(self._config, self._settings, self._place), self._is_decoupled)
        await self._words["ready"]
        self.is_ready, self._ready_since = True, time.monotonic()

    async def _not_started(self, what: str) -> RepositoryError:
        await self._end_process(0)
        return RepositoryError(f"model {self._name!r} {what}")

    async def _end_process(self, patience_seconds: float) -> None:
        worker, self._worker = self._worker, None
        self.is_ready = False
        if worker is None:
            return
        if patience_seconds == 0:
            worker.kill()
        await worker.ended(patience_seconds or 5)
        worker.close()

    def _handle(self, frame: Frame) -> None:
        kind = frame.value[0]
        if kind == "done":
            self._take(frame)
        elif kind in ("loaded", "ready"):
            self._words[kind].set_result(frame)
        elif kind == "failed":
            problem = RepositoryError(f"model {self._name!r}: {frame.value[1]}")
            for future in self._words.values():
                if not future.done():
                    future.set_exception(problem)
        elif kind == "ask":
            self._ask(frame)
        elif kind == "stop":
            if frame.value[1] in self._asked:
                self._asked[frame.value[1]].cancel()
        elif kind == "control":
            self._task(self._control(*frame.value[1:4]))
        elif kind == "log":
            write_log(self._name, frame.value[1], frame.value[2])

    def _take(self, frame: Frame) -> None:
        _, rows, is_over, region_size = frame.value
        has_shared = False
        for number, is_final, tensors, error, parameters in rows:
            job, _ = self._jobs.get(number, (None, []))
            if job is None:
                continue
            outputs = self._tensors(frame, tensors or (), region_size)
            has_shared = has_shared or any(len(one) > 4 for one in tensors or ())
            if is_final:
                self._forget(number)
            is_whole = tensors is not None and not self._is_decoupled
            self._respond(job, InferResponse(outputs, is_final, parameters or {}), is_whole, error)
        if has_shared:
            self._saw()
        if is_over:
            self._batch_over()

    def _respond(self, job: Job, response: InferResponse, is_whole: bool, error: list[Any] | None) -> None:
        if error is not None:
            code, message = error
            job.fail(error_of(code, message, self._name))
            return
        try:
            self._outputs.check(job.request, response.outputs, is_whole)
        except RequestError as problem:
            job.fail(problem)
            return
        job.send(response)

    def _tensors(self, frame: Frame, described: Sequence[list[Any]], region_size: int) -> dict[str, Tensor]:
        """What lies in shared memory is copied: its writer will use the place again."""
        assert self._worker is not None
        found = {}
        for one in described:
            if len(one) > 4:
                self._worker.region.reach(region_size)
                name, datatype, shape, raw = frame.tensor(one, self._worker.region)
                raw = bytes(raw)
            else:
                name, datatype, shape, raw = frame.tensor(one, self._worker.region)
            found[name] = from_raw(name, datatype, shape, raw)
        return found

    def _saw(self) -> None:
        assert self._worker is not None
        self._num_seen += 1
        self._worker.region.saw(self._num_seen)

    def _forget(self, number: int) -> None:
        job, places = self._jobs.pop(number)
        self._numbers.pop(job, None)
        if self._worker is not None:
            for place in places:
                self._worker.arena.free(place)

    def _batch_over(self) -> None:
        done, self._done, self._batch = self._done, None, ()
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        if done is not None:
            done()

    def _is_hanging(self) -> None:
        self._patience = None
        if self._worker is not None:
            log.warning("model %s hangs in a batch that nobody waits for: its process is killed", self._name)
            self._worker.kill()

    def _died(self) -> None:
        """Its socket is closed: no more from it, whether it has ended or not."""
        self.is_ready = False
        worker = self._worker
        if worker is not None and not self._is_closed:
            self._task(self._bury(worker))
        self._changed()

    async def _bury(self, worker: WorkerProcess) -> None:
        how = await worker.ended(_TO_BURY)
        self._worker = None
        self._stop_asking()
        is_starting = any(not future.done() for future in self._words.values())
        for future in self._words.values():
            if not future.done():
                future.set_exception(RepositoryError(f"model {self._name!r} did not start: {how}"))
        self._fail_all(f"did not answer: {how}. It is starting again")
        if not is_starting:
            log.error("model %s: %s; it is started again", self._name, how)
            await self._start_again()

    async def _start_again(self) -> None:
        while not self._is_closed:
            was_soon = time.monotonic() - self._ready_since < _SOON
            self._delay = min(max(2 * self._delay, _FIRST_DELAY), _LONGEST_DELAY) if was_soon else 0.0
            await asyncio.sleep(self._delay)
            try:
                await self.load()
                await self.initialize(self._config)
            except RepositoryError as problem:
                log.error("%s; it is tried again", problem)
                self._ready_since = time.monotonic()
                continue
            log.info("model %s is ready again", self._name)
            self._changed()
            return

    def _fail_all(self, what: str) -> None:
        jobs = [job for job, _ in self._jobs.values()]
        self._jobs.clear()
        self._numbers.clear()
        for job in jobs:
            job.fail(RequestError("unavailable", f"model {self._name!r} {what}"))
        self._batch_over()

    def _ask(self, frame: Frame) -> None:
        """The tensors are taken at once, before their place is used again."""
        _, call, asked, described, region_size = frame.value
        tensors = self._tensors(frame, described, region_size)
        if any(len(one) > 4 for one in described):
            self._saw()
        self._asked[call] = self._task(self._answer(call, asked_request(asked, tensors.values())))

    async def _answer(self, call: int, request: Any) -> None:
        worker = self._worker
        try:
            await self._tell_answers(worker, call, responses_of(self._server, request))
        finally:
            self._asked.pop(call, None)

    async def _tell_answers(
        self, worker: WorkerProcess | None, call: int, responses: AsyncGenerator[InferResponse | RequestError]
    ) -> None:
        is_last = False
        try:
            async for response in responses:
                if worker is None or not worker.is_open:
                    return
                while worker.num_unsent_bytes > 2**24 and worker.is_open:
                    await asyncio.sleep(0.001)  # the model reads more slowly than the other one answers
                outgoing = Outgoing(None)
                if isinstance(response, RequestError):
                    is_last = True
                    worker.send(outgoing, ["answer", call, True, [], [code_of(response), response.message], None])
                    return
                is_last = response.is_last
                tensors = [
                    outgoing.tensor(name, one.datatype, one.shape, to_raw(one))
                    for name, one in response.outputs.items()
                ]
                worker.send(outgoing, ["answer", call, is_last, tensors, None, dict(response.parameters)])
        finally:
            await responses.aclose()

    async def _control(self, call: int, verb: str, arguments: dict[str, Any]) -> None:
        value, error = None, None
        try:
            value = await controlled(self._server, verb, arguments)
        except RequestError as problem:
            error = [code_of(problem), problem.message]
        if self._worker is not None:
            self._worker.say("answer", call, True, value, error, None)

    def _stop_asking(self) -> None:
        for task in list(self._asked.values()):
            task.cancel()

    def _task(self, work: Any) -> "asyncio.Task[Any]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def initialize_arguments(config: ModelConfig, settings: PythonSettings, place: InstancePlace) -> dict[str, str]:
    """What Triton tells `initialize`."""
    return {
        "model_config": config_text_json(config),
        "model_instance_kind": place.kind.removeprefix("KIND_"),
        "model_instance_name": place.name,
        "model_instance_device_id": str(place.device),
        "model_repository": str(settings.folder),
        "model_version": settings.version,
        "model_name": config.name,
    }


def _retrieved(future: "asyncio.Future[Frame]") -> None:
    """A start that failed at its first word is not asked for its second."""
    if not future.cancelled():
        future.exception()

"""One instance of a Python model inside the server: in a thread of its own, or inline on the event loop.

No process is started and no bytes are copied; but a model that crashes takes the server along, one that hangs hangs its
thread (inline: everything), and what it prints is the server's output.
"""

import asyncio
import concurrent.futures
import logging
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from tritonclient.grpc.model_config_pb2 import ModelConfig

from hanbit.common.errors import RepositoryError
from hanbit.repository.config import is_decoupled
from hanbit.repository.config_json import config_text_json
from hanbit.server.batching.job import Job
from hanbit.server.batching.options import InstancePlace
from hanbit.server.errors import RequestError
from hanbit.server.python_models.api_errors import TritonError, TritonModelException
from hanbit.server.python_models.api_requests import InferenceRequest, InferenceResponse, asked_of
from hanbit.server.python_models.api_tensor import Tensor as ModelTensor
from hanbit.server.python_models.api_tensor import datatype_of, elements_of
from hanbit.server.python_models.ask import Server, controlled, responses_of, write_log
from hanbit.server.python_models.datatypes import BF16, BYTES
from hanbit.server.python_models.host import set_host
from hanbit.server.python_models.module import model_class_inside
from hanbit.server.python_models.outlet import RequestOutlet
from hanbit.server.python_models.outputs import Outputs
from hanbit.server.python_models.process_instance import initialize_arguments
from hanbit.server.python_models.runner import ModelFault, Runner, completed_config, fail_all
from hanbit.server.python_models.settings import PythonSettings
from hanbit.server.python_models.translate import asked_request, code_of, error_of, told_of
from hanbit.server.request import InferResponse
from hanbit.server.tensors import Tensor

log = logging.getLogger(__name__)


class InsideHost:
    """What a model inside the server asks of it."""

    def __init__(self, name: str, server: Server) -> None:
        self._name, self._server = name, server
        self._loop = asyncio.get_running_loop()

    def infer(self, request: InferenceRequest) -> Iterator[InferenceResponse]:
        self._check_thread("exec() waits for another model")
        responses = responses_of(self._server, asked_request(asked_of(request), _server_tensors(request.inputs())))
        return self._pulled(responses)

    async def infer_async(self, request: InferenceRequest, is_whole: bool) -> Iterator[InferenceResponse]:
        """All of them in any case: an iterator that blocks would block the loop that should answer."""

        async def all_of_them() -> list[InferenceResponse]:
            asked = asked_request(asked_of(request), _server_tensors(request.inputs()))
            return [_model_response(one) async for one in responses_of(self._server, asked)]

        if asyncio.get_running_loop() is self._loop:
            return iter(await all_of_them())
        return iter(await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(all_of_them(), self._loop)))

    def control(self, verb: str, **arguments: Any) -> Any:
        self._check_thread(f"{verb} waits for the server")
        try:
            return asyncio.run_coroutine_threadsafe(controlled(self._server, verb, arguments), self._loop).result()
        except RequestError as problem:
            raise TritonModelException(problem.message) from problem

    def log(self, level: str, message: str) -> None:
        write_log(self._name, level, message)

    def _check_thread(self, what: str) -> None:
        try:
            is_here = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            is_here = False
        if is_here:
            raise TritonModelException(
                f"{what}, which would stop the server if the model is inline: use async_exec, or another place"
            )

    def _pulled(self, responses: Any) -> Iterator[InferenceResponse]:
        async def following() -> Any:
            return await anext(responses, None)

        try:
            while (found := asyncio.run_coroutine_threadsafe(following(), self._loop).result()) is not None:
                yield _model_response(found)
        finally:
            asyncio.run_coroutine_threadsafe(responses.aclose(), self._loop)


class InsideOutlet(RequestOutlet):
    __slots__ = ("_instance", "_job")

    def __init__(self, instance: "InsideInstance", job: Job, is_decoupled: bool) -> None:
        super().__init__(is_decoupled)
        self._instance, self._job = instance, job

    def is_cancelled(self) -> bool:
        return self._job.is_left

    def deliver(self, response: InferenceResponse | None, is_final: bool) -> None:
        self._instance.on_loop(self._instance.respond, self._job, response, is_final)

    def forget(self, response: InferenceResponse) -> None:
        self.deliver(response, True)


class InsideInstance:
    """See batching/instance.py; `settings.place` says whether in a thread or inline."""

    def __init__(self, config: ModelConfig, settings: PythonSettings, place: InstancePlace, server: Server) -> None:
        self.is_ready = False
        self._name, self._config = config.name, config
        self._settings, self._place = settings, place
        self._host = InsideHost(config.name, server)
        self._loop, self._loop_thread = asyncio.get_running_loop(), threading.get_ident()
        self._thread = None if settings.place == "inline" else _Thread(f"model {config.name}")
        self._class: Any = None
        self._runner: Runner | None = None
        self._outputs = Outputs(config)
        self._tasks: set[asyncio.Task[None]] = set()

    def watch(self, changed: Callable[[], None]) -> None:
        """It is there from its loading to its end."""

    async def load(self) -> str | None:
        """As ProcessInstance. Raises RepositoryError."""
        return await self._done_by_start(self._imported)

    async def initialize(self, config: ModelConfig) -> None:
        self._config, self._outputs = config, Outputs(config)
        self._runner = await self._done_by_start(self._initialized)
        self.is_ready = True

    def execute(self, jobs: Sequence[Job], done: Callable[[], None]) -> None:
        assert self._runner is not None
        runner = self._runner
        requests = [self._request(job, runner.is_decoupled) for job in jobs]
        if self._thread is not None:
            self._thread.put(lambda: self._in_thread(runner, jobs, requests, done))
        elif runner.is_async:
            task = self._loop.create_task(self._awaited(runner, jobs, requests, done))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            set_host(self._host)
            self._run(runner, jobs, requests, lambda call, *given: call(*given))
            requests.clear()
            done()

    def cancel(self, job: Job) -> None:
        """Its requests look for themselves."""

    def nobody_waits(self) -> None:
        log.warning(
            "model %s goes on with a batch that nobody waits for, and nobody can end it: see `place`", self._name
        )

    async def close(self) -> None:
        self.is_ready = False
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        runner, self._runner = self._runner, None
        if runner is not None:
            if self._thread is not None:
                await self._thread.call(runner.finalize, self._settings.hang_seconds)
            else:
                runner.finalize()
        if self._thread is not None:
            self._thread.put(None)

    async def _done_by_start(self, work: Callable[[], Any]) -> Any:
        """In the thread that executes: some libraries care."""
        try:
            if self._thread is not None:
                return await self._thread.call(work, self._settings.start_seconds)
            return await asyncio.to_thread(work)
        except TimeoutError:
            seconds = self._settings.start_seconds
            raise RepositoryError(f"model {self._name!r} did not start in {seconds:g} s (start_seconds)") from None
        except ModelFault as problem:
            raise RepositoryError(f"model {self._name!r}: {problem}") from problem

    def _imported(self) -> str | None:
        set_host(self._host)
        settings = self._settings
        try:
            self._class = model_class_inside(settings.folder, settings.version, settings.file)
        except BaseException as problem:
            raise ModelFault(f"{settings.file} cannot be imported: {type(problem).__name__}: {problem}") from problem
        return completed_config(self._class, config_text_json(self._config))

    def _initialized(self) -> Runner:
        set_host(self._host)
        arguments = initialize_arguments(self._config, self._settings, self._place)
        return Runner(self._class, arguments, is_decoupled(self._config))

    def _request(self, job: Job, decoupled: bool) -> InferenceRequest:
        outlet = InsideOutlet(self, job, decoupled)
        id, correlation_id, flags, timeout, outputs, parameters = told_of(job.request, self._outputs.names)
        inputs = [_model_tensor(one) for one in job.request.inputs.values()]
        return InferenceRequest._incoming(id, correlation_id, inputs, outputs, flags, timeout, parameters, outlet)

    def on_loop(self, call: Callable[..., None], *given: Any) -> None:
        if threading.get_ident() == self._loop_thread:
            call(*given)
        else:
            try:
                self._loop.call_soon_threadsafe(call, *given)
            except RuntimeError:  # the loop has ended, and nobody waits
                log.debug("model %s answered behind the server's end", self._name)

    def _in_thread(
        self, runner: Runner, jobs: Sequence[Job], requests: list[InferenceRequest], done: Callable[[], None]
    ) -> None:
        calls: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._run(runner, jobs, requests, lambda call, *given: calls.append((call, given)))
        requests.clear()

        def deliver() -> None:
            for call, given in calls:
                call(*given)
            done()

        self.on_loop(deliver)

    def _run(
        self, runner: Runner, jobs: Sequence[Job], requests: list[InferenceRequest], tell: Callable[..., None]
    ) -> None:
        """`tell`: calls on the loop, sooner or later, in order."""

        def executed(responses: Sequence[InferenceResponse | None]) -> None:
            for job, response, request in zip(jobs, responses, requests, strict=False):
                request._outlet.is_closed = True  # type: ignore[union-attr]
                tell(self.respond, job, response, True)

        try:
            runner.execute(requests, executed)
        except ModelFault as problem:
            fail_all(requests, problem)

    async def _awaited(
        self, runner: Runner, jobs: Sequence[Job], requests: list[InferenceRequest], done: Callable[[], None]
    ) -> None:
        set_host(self._host)
        if runner.is_decoupled:
            done()
        try:
            responses = await runner.execute_here(requests)
            for job, response, request in zip(jobs, responses, requests, strict=False):
                request._outlet.is_closed = True  # type: ignore[union-attr]
                self.respond(job, response, True)
        except ModelFault as problem:
            fail_all(requests, problem)
        finally:
            requests.clear()
            if not runner.is_decoupled:
                done()

    def respond(self, job: Job, response: InferenceResponse | None, is_final: bool) -> None:
        if response is None:
            job.send(InferResponse({}, is_final))
            return
        error = response.error()
        if error is not None:
            job.fail(error_of(error.code(), error.message(), self._name))
            return
        try:
            outputs = {one.name: one for one in _server_tensors(response.output_tensors())}
            self._outputs.check(job.request, outputs, not is_decoupled(self._config))
        except RequestError as problem:
            job.fail(problem)
            return
        job.send(InferResponse(outputs, is_final, response._parameters))


class _Thread:
    """Does one thing after another."""

    def __init__(self, name: str) -> None:
        self._works: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        threading.Thread(target=self._do, name=name, daemon=True).start()

    def put(self, work: Callable[[], None] | None) -> None:
        """None is the end."""
        self._works.put(work)

    async def call(self, work: Callable[[], Any], patience_seconds: float) -> Any:
        """Its result. Raises what it raises, TimeoutError."""
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()

        def answered() -> None:
            try:
                future.set_result(work())
            except BaseException as problem:
                future.set_exception(problem)

        self.put(answered)
        async with asyncio.timeout(patience_seconds):
            return await asyncio.shield(asyncio.wrap_future(future))

    def _do(self) -> None:
        while (work := self._works.get()) is not None:
            work()
            del work


def _model_tensor(one: Tensor) -> ModelTensor:
    if one.datatype == BF16:
        bits = one.data.view("<u4") >> 16  # the data plane has BF16 as float32
        return ModelTensor._made(one.name, BF16, bits.astype("<u2"))
    return ModelTensor._made(one.name, one.datatype, one.data)


def _server_tensors(tensors: Sequence[ModelTensor]) -> list[Tensor]:
    """Copies: models use their arrays again. Raises RequestError where a text cannot be written."""
    found = []
    for one in tensors:
        datatype, data = datatype_of(one), elements_of(one)
        if datatype == BYTES:
            data = _as_bytes(one.name(), data)
        elif datatype == BF16:
            data = (data.view("<u2").astype("<u4") << 16).view("<f4")
        else:
            data = data.copy()
        found.append(Tensor(one.name(), datatype, data.shape, data))
    return found


def _as_bytes(name: str, data: np.ndarray) -> np.ndarray:
    """Texts encoded, in an array of objects."""
    items = np.empty(data.size, np.object_)
    try:
        items[:] = [one if type(one) is bytes else str(one).encode() for one in data.ravel().tolist()]
    except UnicodeEncodeError:
        raise RequestError("internal", f"output {name!r:.80} has a text that is not Unicode") from None
    return items.reshape(data.shape)


def _model_response(response: InferResponse | RequestError) -> InferenceResponse:
    if isinstance(response, RequestError):
        return InferenceResponse(error=TritonError(response.message, code_of(response)))
    outputs = [_model_tensor(one) for one in response.outputs.values()]
    return InferenceResponse(outputs, None, response.parameters)

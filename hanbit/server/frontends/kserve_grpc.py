"""KServe v2 over gRPC: the service of Triton's port 8001, with tritonclient's messages."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import replace
from functools import wraps
from typing import Any

from google.protobuf.json_format import ParseDict
from tritonclient.grpc import service_pb2 as messages
from tritonclient.grpc import service_pb2_grpc as services

from hanbit.server.describe import model_statistics, repository_index, server_metadata
from hanbit.server.errors import RequestError, as_request_error, invalid
from hanbit.server.extensions.trace import Trace
from hanbit.server.frontends.grpc_tensors import WANTS_EMPTY_FINAL, as_message, as_request, as_stream_message
from hanbit.server.frontends.kserve_settings import cuda_regions, refuse_cuda
from hanbit.server.model import ServedModel
from hanbit.server.models import Catalogue
from hanbit.server.request import InferRequest

Call = Callable[[Any, Any, Any], Awaitable[Any]]

_REQUESTS_AT_ONCE = 64  # of one stream; further ones are not read before one of these has ended


def _answer(call: Call) -> Call:
    """The call, with whatever goes wrong as a gRPC status."""

    @wraps(call)
    async def answer(self: Any, request: Any, context: Any) -> Any:
        try:
            return await call(self, request, context)
        except Exception as problem:
            error = as_request_error(problem)
            await context.abort(error.grpc_status, error.message)

    return answer


def _check_repository(request: Any) -> None:
    """As with Triton, a model's name says which repository it is of. Raises RequestError."""
    if request.repository_name:
        raise RequestError("unsupported", "load and unload take no repository's name: models are told apart by theirs")


def _setting(name: str, values: list[str]) -> list[str] | str | None:
    """Nothing takes a setting back; but the levels every setting is one text. Raises RequestError."""
    if not values:
        return None
    if name == "trace_level":
        return values
    if len(values) > 1:
        raise invalid(f"{name} is one value, not {len(values)}")
    return values[0]


def _with(trace: Trace | None, request: InferRequest) -> InferRequest:
    return request if trace is None else replace(request, trace=trace)


class InferenceService(services.GRPCInferenceServiceServicer):
    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._memory = catalogue.extensions.shared_memory

    @contextmanager
    def _traced(self, model: ServedModel) -> Iterator[Trace | None]:
        trace = self._catalogue.extensions.tracing.start(model.name)
        if trace is not None:
            trace.mark("GRPC_WAITREAD_END")
        try:
            yield trace
        finally:
            if trace is not None:
                trace.mark("GRPC_SEND_END")
                trace.end()

    @_answer
    async def ServerLive(self, request: Any, context: Any) -> Any:
        return messages.ServerLiveResponse(live=True)

    @_answer
    async def ServerReady(self, request: Any, context: Any) -> Any:
        return messages.ServerReadyResponse(ready=self._catalogue.is_server_ready)

    @_answer
    async def ModelReady(self, request: Any, context: Any) -> Any:
        try:
            is_ready = self._catalogue.is_ready(request.name, request.version)
        except RequestError as problem:
            if problem.kind != "not_found":
                raise
            is_ready = False
        return messages.ModelReadyResponse(ready=is_ready)

    @_answer
    async def ServerMetadata(self, request: Any, context: Any) -> Any:
        return messages.ServerMetadataResponse(**server_metadata(self._catalogue))

    @_answer
    async def ModelMetadata(self, request: Any, context: Any) -> Any:
        model = self._catalogue.find(request.name, request.version)
        return ParseDict(model.metadata(request.version), messages.ModelMetadataResponse())

    @_answer
    async def ModelConfig(self, request: Any, context: Any) -> Any:
        return messages.ModelConfigResponse(config=self._catalogue.find(request.name, request.version).config)

    @_answer
    async def ModelStatistics(self, request: Any, context: Any) -> Any:
        found = model_statistics(self._catalogue, request.name, request.version)
        return ParseDict(found, messages.ModelStatisticsResponse())

    @_answer
    async def RepositoryIndex(self, request: Any, context: Any) -> Any:
        lines = repository_index(self._catalogue, request.ready)
        return ParseDict({"models": lines}, messages.RepositoryIndexResponse())

    @_answer
    async def RepositoryModelLoad(self, request: Any, context: Any) -> Any:
        _check_repository(request)
        parameters = {
            name: getattr(value, value.WhichOneof("parameter_choice") or "string_param")
            for name, value in request.parameters.items()
        }
        await self._catalogue.load_by_client(request.model_name, parameters)
        return messages.RepositoryModelLoadResponse()

    @_answer
    async def RepositoryModelUnload(self, request: Any, context: Any) -> Any:
        _check_repository(request)
        with_members = request.parameters["unload_dependents"].bool_param
        await self._catalogue.unload_by_client(request.model_name, with_members)
        return messages.RepositoryModelUnloadResponse()

    @_answer
    async def TraceSetting(self, request: Any, context: Any) -> Any:
        tracing, model = self._catalogue.extensions.tracing, request.model_name
        if model:
            self._catalogue.find(model)
        if request.settings:
            tracing.update(model, {name: _setting(name, list(one.value)) for name, one in request.settings.items()})
        found = messages.TraceSettingResponse()
        for name, value in tracing.as_json(model).items():
            found.settings[name].value.extend(value if isinstance(value, list) else [value])
        return found

    @_answer
    async def LogSettings(self, request: Any, context: Any) -> Any:
        settings = self._catalogue.extensions.log_settings
        if request.settings:
            settings.update(
                {
                    name: getattr(one, one.WhichOneof("parameter_choice") or "string_param")
                    for name, one in request.settings.items()
                }
            )
        found = messages.LogSettingsResponse()
        for name, value in settings.as_json().items():
            kind = {bool: "bool_param", int: "uint32_param", str: "string_param"}[type(value)]
            setattr(found.settings[name], kind, value)
        return found

    @_answer
    async def SystemSharedMemoryStatus(self, request: Any, context: Any) -> Any:
        found = messages.SystemSharedMemoryStatusResponse()
        for one in self._memory.status(request.name):
            ParseDict(one, found.regions[one["name"]])
        return found

    @_answer
    async def SystemSharedMemoryRegister(self, request: Any, context: Any) -> Any:
        self._memory.register(request.name, request.key, request.offset, request.byte_size)
        return messages.SystemSharedMemoryRegisterResponse()

    @_answer
    async def SystemSharedMemoryUnregister(self, request: Any, context: Any) -> Any:
        self._memory.unregister(request.name)
        return messages.SystemSharedMemoryUnregisterResponse()

    @_answer
    async def CudaSharedMemoryStatus(self, request: Any, context: Any) -> Any:
        cuda_regions(request.name)
        return messages.CudaSharedMemoryStatusResponse()

    @_answer
    async def CudaSharedMemoryRegister(self, request: Any, context: Any) -> Any:
        refuse_cuda(request.raw_handle)
        return messages.CudaSharedMemoryRegisterResponse()

    @_answer
    async def CudaSharedMemoryUnregister(self, request: Any, context: Any) -> Any:
        return messages.CudaSharedMemoryUnregisterResponse()

    @_answer
    async def ModelInfer(self, request: Any, context: Any) -> Any:
        with self._catalogue.admission.one():
            model = self._catalogue.find(request.model_name, request.model_version)
            with self._traced(model) as trace:
                asked = _with(trace, as_request(model, request, self._memory))
                found = as_message(model, asked, await model.one(asked), self._memory)
                if trace is not None:
                    trace.mark("GRPC_SEND_START")
                return found

    async def ModelStreamInfer(self, requests: AsyncIterator[Any], context: Any) -> None:
        """Requests of a stream are worked on together; their responses are told apart by their ids. A stream that is
        cancelled takes all its work along."""
        turn, slots = asyncio.Lock(), asyncio.Semaphore(_REQUESTS_AT_ONCE)

        async def write(message: messages.ModelStreamInferResponse) -> None:
            async with turn:
                await context.write(message)

        async with asyncio.TaskGroup() as group:
            async for request in requests:
                await slots.acquire()
                task = group.create_task(self._one_of_stream(request, write))
                task.add_done_callback(lambda _: slots.release())

    async def _one_of_stream(self, message: Any, write: Callable[[Any], Awaitable[None]]) -> None:
        """Errors are messages of the stream, which goes on."""
        try:
            with self._catalogue.admission.one():
                model = self._catalogue.find(message.model_name, message.model_version)
                with self._traced(model) as trace:
                    asked = _with(trace, as_request(model, message, self._memory))
                    async with aclosing(model.infer(asked)) as responses:
                        async for response in responses:
                            if response.outputs or (response.is_last and asked.parameters.get(WANTS_EMPTY_FINAL)):
                                await write(as_stream_message(model, asked, response, self._memory))
        except Exception as problem:
            found = messages.ModelStreamInferResponse(error_message=as_request_error(problem).message)
            found.infer_response.id = message.id
            found.infer_response.model_name = message.model_name
            await write(found)

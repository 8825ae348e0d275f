"""KServe v2 over gRPC: the service of Triton's port 8001, with tritonclient's messages, and the standard health check.

What is not here (shared memory, tracing, logging) answers UNIMPLEMENTED, as the generated base class does.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from functools import wraps
from typing import Any

from google.protobuf.json_format import ParseDict
from tritonclient.grpc import service_pb2 as messages
from tritonclient.grpc import service_pb2_grpc as services

from hanbit.server.describe import model_statistics, repository_index, server_metadata
from hanbit.server.errors import RequestError, as_request_error
from hanbit.server.frontends.grpc_tensors import WANTS_EMPTY_FINAL, as_message, as_request, as_stream_message
from hanbit.server.models import Catalogue

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


class InferenceService(services.GRPCInferenceServiceServicer):
    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    @_answer
    async def ServerLive(self, request: Any, context: Any) -> Any:
        return messages.ServerLiveResponse(live=True)

    @_answer
    async def ServerReady(self, request: Any, context: Any) -> Any:
        return messages.ServerReadyResponse(ready=self._catalogue.is_server_ready)

    @_answer
    async def ModelReady(self, request: Any, context: Any) -> Any:
        return messages.ModelReadyResponse(ready=self._catalogue.is_ready(request.name, request.version))

    @_answer
    async def ServerMetadata(self, request: Any, context: Any) -> Any:
        return messages.ServerMetadataResponse(**server_metadata())

    @_answer
    async def ModelMetadata(self, request: Any, context: Any) -> Any:
        model = self._catalogue.find(request.name, request.version)
        return ParseDict(model.metadata(), messages.ModelMetadataResponse())

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
        if request.parameters:
            raise RequestError("unsupported", "load takes no config and no files here: edit the repository, then load")
        await self._catalogue.load_by_client(request.model_name)
        return messages.RepositoryModelLoadResponse()

    @_answer
    async def RepositoryModelUnload(self, request: Any, context: Any) -> Any:
        with_members = request.parameters["unload_dependents"].bool_param
        await self._catalogue.unload_by_client(request.model_name, with_members)
        return messages.RepositoryModelUnloadResponse()

    @_answer
    async def ModelInfer(self, request: Any, context: Any) -> Any:
        with self._catalogue.admission.one():
            model = self._catalogue.find(request.model_name, request.model_version)
            asked = as_request(model, request)
            return as_message(model, asked, await model.one(asked))

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
                asked = as_request(model, message)
                async with aclosing(model.infer(asked)) as responses:
                    async for response in responses:
                        if response.outputs or (response.is_last and asked.parameters.get(WANTS_EMPTY_FINAL)):
                            await write(as_stream_message(model, asked, response))
        except Exception as problem:
            found = messages.ModelStreamInferResponse(error_message=as_request_error(problem).message)
            found.infer_response.id = message.id
            found.infer_response.model_name = message.model_name
            await write(found)

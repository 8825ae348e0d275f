"""The gRPC server around its services: limits, the key, the standard health check."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tritonclient.grpc import service_pb2_grpc as services

from hanbit.server.access import Keys, roles_of_grpc
from hanbit.server.access_log import AccessLog, GrpcLog
from hanbit.server.errors import RequestError
from hanbit.server.frontends.kserve_grpc import InferenceService
from hanbit.server.models import Catalogue
from hanbit.server.options import MOST_INPUT_BYTES
from hanbit.server.ports import in_use
from hanbit.server.restrictions import Restrictions, api_of_method

_SERVICE = "inference.GRPCInferenceService"
_OPEN = (f"/{_SERVICE}/ServerLive", f"/{_SERVICE}/ServerReady", "/grpc.health.v1.Health/")
_OPTIONS = (
    ("grpc.so_reuseport", 0),  # two servers on one port would each get some of the requests
    ("grpc.keepalive_time_ms", 60_000),  # a half-open connection is noticed
)


class GrpcServer:
    """`address`: host:port, taken when this is made; `credentials`: for TLS. Raises ConfigError if it cannot be had."""

    def __init__(
        self,
        catalogue: Catalogue,
        address: str,
        keys: Keys,
        credentials: grpc.ServerCredentials | None = None,
        log: AccessLog | None = None,
        restrictions: Restrictions | None = None,
        max_input_bytes: int = MOST_INPUT_BYTES,
    ) -> None:
        restrictions = restrictions or Restrictions()
        interceptors: list[grpc.aio.ServerInterceptor] = [] if log is None else [GrpcLog(log)]
        interceptors += [_Gate(keys, restrictions)] if keys or restrictions.headers else []
        limits = [(f"grpc.max_{way}_message_length", max_input_bytes) for way in ("receive", "send")]
        self._server = grpc.aio.server(interceptors=interceptors, options=[*_OPTIONS, *limits])
        self._health = health.aio.HealthServicer()
        services.add_GRPCInferenceServiceServicer_to_server(InferenceService(catalogue), self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        try:
            if credentials is None:
                self.port: int = self._server.add_insecure_port(address)
            else:
                self.port = self._server.add_secure_port(address, credentials)
        except RuntimeError:  # somebody took it since it was found free
            raise in_use(int(address.rpartition(":")[2]), "--grpc-port") from None

    async def start(self) -> None:
        await self.set_ready(False)
        await self._server.start()

    async def set_ready(self, is_ready: bool) -> None:
        """What the standard health check says."""
        states = health_pb2.HealthCheckResponse
        for name in (health.OVERALL_HEALTH, _SERVICE):
            await self._health.set(name, states.SERVING if is_ready else states.NOT_SERVING)

    async def stop(self) -> None:
        """What is being answered gets a moment to say its last."""
        await self._server.stop(grace=1)


class _Gate(grpc.aio.ServerInterceptor):
    def __init__(self, keys: Keys, restrictions: Restrictions) -> None:
        self._keys, self._restrictions = keys, restrictions

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        try:
            metadata = dict(details.invocation_metadata or ())
            if not details.method.startswith(_OPEN):
                self._keys.check(metadata.get("authorization"), roles_of_grpc(details.method))
            self._restrictions.check(api_of_method(details.method), lambda name: _text(metadata, name))
        except RequestError as problem:
            return _refusal(await continuation(details), problem)
        return await continuation(details)


def _text(metadata: Mapping[str, str | bytes], name: str) -> str | None:
    """A header's value; Triton's clients send what opens a part as `triton-grpc-protocol-NAME`."""
    for key in (name, f"triton-grpc-protocol-{name}"):
        if (found := metadata.get(key)) is not None:
            return found.decode(errors="replace") if isinstance(found, bytes) else found
    return None


def _refusal(handler: Any, problem: RequestError) -> Any:
    """A handler of the same kind, since clients of streams read streams."""

    async def refuse(request: Any, context: grpc.aio.ServicerContext) -> None:
        await context.abort(problem.grpc_status, problem.message)

    if handler is not None and handler.request_streaming:
        return grpc.stream_stream_rpc_method_handler(refuse)
    return grpc.unary_unary_rpc_method_handler(refuse)

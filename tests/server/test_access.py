"""With a key, every route and every call asks for it but the health checks and the page's own files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
from tritonclient.grpc import service_pb2, service_pb2_grpc

from hanbit.common.errors import ConfigError
from hanbit.server.app import build_app
from hanbit.server.options import ServeOptions
from tests.server.asking import Http, inputs, text_of
from tests.server.served import Served, serving

OPEN = {"/v2/health/live", "/v2/health/ready", "/", "/page/style.css", "/page/app.js", "/page/icon.svg"}


@pytest.fixture(scope="module")
def guarded(repository: Path) -> Iterator[Served]:
    with serving(repository, api_key="secret") as found:
        yield found


def test_every_route_and_method_asks_for_the_key(guarded: Served) -> None:
    http = Http(guarded.http)
    routes = [route for route in build_app(guarded.catalogue).routes if hasattr(route, "methods")]
    assert len(routes) > 25
    for route in routes:
        path = route.path.replace("{model}", "small").replace("{version}", "1").replace("{path:path}", "x")
        for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD"):
            for given in ("Bearer wrong", "secret", "Bearer", "Basic secret", "Bearer secret2"):
                status = http.ask(path, b"", method, authorization=given).status
                assert (status == 401) == (path not in OPEN), f"{method} {path}: {status}"


def test_the_right_key_opens_http(guarded: Served) -> None:
    http = Http(guarded.http)
    reply = http.ask("/v2/models/small/generate", {"text_input": "The", "max_tokens": 2}, authorization="Bearer secret")
    assert reply.status == 200
    assert http.ask("/v1/models", method="GET", authorization="Bearer secret").status == 200
    assert http.ask("/v1/models", method="GET").json()["error"]["type"] == "authentication_error"
    triton = http_client.InferenceServerClient(guarded.http)
    headers = {"Authorization": "Bearer secret"}
    assert text_of(triton.infer("small", inputs(http_client, max_tokens=2), headers=headers))


def test_every_call_of_grpc_asks_for_the_key(guarded: Served) -> None:
    methods = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods
    with grpc.insecure_channel(guarded.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for method in methods:
            request: Any = getattr(service_pb2, method.input_type.name)()
            is_stream = method.name == "ModelStreamInfer"
            try:
                call = getattr(stub, method.name)
                list(call(iter([request]))) if is_stream else call(request)
                status = grpc.StatusCode.OK
            except grpc.RpcError as problem:
                status = problem.code()
            is_open = method.name in ("ServerLive", "ServerReady")
            assert (status == grpc.StatusCode.OK) == is_open, method.name
            assert is_open or status == grpc.StatusCode.UNAUTHENTICATED, method.name


def test_the_right_key_opens_grpc(guarded: Served) -> None:
    triton = grpc_client.InferenceServerClient(guarded.grpc)
    headers = {"authorization": "Bearer secret"}
    assert text_of(triton.infer("small", inputs(grpc_client, max_tokens=2), headers=headers))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "example.org", ""])
def test_a_public_address_without_a_key_is_refused(host: str) -> None:
    repositories = (Path("models"),)
    with pytest.raises(ConfigError, match="--api-key KEY, or say --insecure"):
        ServeOptions(repositories=repositories, host=host).check()
    ServeOptions(repositories=repositories, host=host, api_key="k").check()
    ServeOptions(repositories=repositories, host=host, insecure=True).check()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_this_machine_needs_no_key(host: str) -> None:
    ServeOptions(repositories=(Path("models"),), host=host).check()

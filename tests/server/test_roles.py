"""Keys with roles: every route and every call lets in the roles that this page gives it to, and nobody else."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from hanbit.common.errors import ConfigError
from hanbit.server.access import read_keys, roles_of_grpc, roles_of_http
from hanbit.server.app import build_app
from tests.server.asking import Http
from tests.server.served import Served, serving

KEYS = {"infer": "ask-me", "metrics": "count-me", "admin": "change-me"}
OPEN = {"/v2/health/live", "/v2/health/ready", "/", "/page/style.css", "/page/app.js", "/page/icon.svg"}
MODEL = "/v2/models/{model}"
EVERYBODY = {"/v2", "/v2/models/stats", f"{MODEL}/stats", f"{MODEL}/versions/{{version}}/stats", "/page/state"}
ASKING = {
    *(
        f"{path}{end}"
        for path in (MODEL, f"{MODEL}/versions/{{version}}")
        for end in ("", "/ready", "/config", "/infer", "/generate", "/generate_stream")
    ),
    *("/v1/models", "/v1/models/{model:path}", "/v1/completions", "/v1/chat/completions", "/v1/embeddings"),
    *("/tokenize", "/detokenize"),
}
CALLS = {"ServerMetadata", "ModelStatistics"}, {"ModelReady", "ModelMetadata", "ModelConfig", "ModelInfer"}
STREAM = "ModelStreamInfer"


def write_keys(path: Path) -> Path:
    lines = [f"{role}-key {role} {hashlib.sha256(key.encode()).hexdigest()}" for role, key in KEYS.items()]
    path.write_text("# for tests\n" + "\n\n".join(lines) + "  # the last\n")
    return path


@pytest.fixture(scope="module")
def guarded(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(repository, api_keys=write_keys(tmp_path_factory.mktemp("keys") / "keys")) as found:
        yield found


def allowed_at(path: str) -> set[str]:
    if path in EVERYBODY:
        return {"infer", "metrics", "admin"}
    if path == "/metrics":
        return {"metrics", "admin"}
    return {"infer", "admin"} if path in ASKING else {"admin"}


def test_every_route_lets_in_its_roles_and_nobody_else(guarded: Served) -> None:
    http = Http(guarded.http)
    routes = [route for route in build_app(guarded.catalogue).routes if hasattr(route, "methods")]
    assert {route.path for route in routes} >= EVERYBODY | ASKING
    for route in routes:
        path = route.path.replace("{model}", "small").replace("{version}", "1")
        path = path.replace("{model:path}", "small").replace("{path:path}", "x")
        for method in route.methods:
            for role, key in KEYS.items():
                status = http.ask(path, b"", method, authorization=f"Bearer {key}").status
                is_in = route.path in OPEN or role in allowed_at(route.path)
                assert (status != 403) == is_in, f"{method} {path} as {role}: {status}"
                assert status != 401


def test_what_is_no_route_is_an_administrators() -> None:
    for method, path in (
        ("DELETE", "/v2/models/small"), ("POST", "/v2/models/small"), ("GET", "/v2/models/a/b/infer"),
        ("POST", "/v2/models/small/infer/"), ("POST", "/v2//models/small/infer"), ("POST", "/metrics"),
        ("POST", "/v2/repository/index"), ("GET", "/v1/other"), ("POST", "/v1/models"),
    ):  # fmt: skip
        assert roles_of_http(method, path) == (), (method, path)
    for call in ("/other.Service/ModelInfer", "/inference.GRPCInferenceService/RepositoryModelLoad", "ModelInfer"):
        assert roles_of_grpc(call) == (), call


def test_every_call_lets_in_its_roles_and_nobody_else(guarded: Served) -> None:
    everybody, asking = CALLS
    with grpc.insecure_channel(guarded.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for method in service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods:
            request: Any = getattr(service_pb2, method.input_type.name)()
            for role, key in KEYS.items():
                call, metadata = getattr(stub, method.name), (("authorization", f"Bearer {key}"),)
                try:
                    if method.name == STREAM:
                        list(call(iter([request]), metadata=metadata))
                    else:
                        call(request, metadata=metadata)
                    status = grpc.StatusCode.OK
                except grpc.RpcError as problem:
                    status = problem.code()
                is_asking = method.name in asking or method.name == STREAM
                is_open = method.name in (*everybody, "ServerLive", "ServerReady")
                is_in = role == "admin" or is_open or (is_asking and role == "infer")
                assert (status != grpc.StatusCode.PERMISSION_DENIED) == is_in, (method.name, role, status)


def test_the_port_of_the_metrics_asks_too(guarded: Served) -> None:
    http = Http(guarded.metrics)
    assert http.ask("/metrics", method="GET").status == 401
    assert http.ask("/metrics", method="GET", authorization=f"Bearer {KEYS['infer']}").status == 403
    reply = http.ask("/metrics", method="GET", authorization=f"Bearer {KEYS['metrics']}")
    assert reply.status == 200
    assert b"vllm:" in reply.content
    assert http.ask("/v2/models/small", method="GET", authorization=f"Bearer {KEYS['admin']}").status == 404


def test_openai_says_it_in_its_shape(guarded: Served) -> None:
    reply = Http(guarded.http).ask("/v1/models", method="GET", authorization=f"Bearer {KEYS['metrics']}")
    assert reply.status == 403
    assert reply.json()["error"]["type"] == "permission_error"
    assert "infer or admin" in reply.json()["error"]["message"]


DIGEST = hashlib.sha256(b"x").hexdigest()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a infer", "2 words"),
        (f"a root {DIGEST}", "infer, metrics, admin"),
        ("a infer secret", "sha256sum"),
        (f"a infer {DIGEST.upper()}", "sha256sum"),
        (f"a infer {DIGEST}\na admin {DIGEST[::-1]}", "name of another line"),
        (f"a infer {DIGEST}\nb admin {DIGEST}", "sha256 of another line"),
        ("# nothing\n", "has no key"),
    ],
)
def test_a_wrong_file_of_keys_is_refused_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "keys").write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_keys(tmp_path / "keys")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_keys(tmp_path / "none")

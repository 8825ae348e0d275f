"""Parts of the protocols that want a header: every path and call belongs to one, and nobody passes without it."""

from pathlib import Path
from typing import Any

import grpc
import pytest
import tritonclient.grpc as grpc_client
from tritonclient.grpc import service_pb2, service_pb2_grpc

from hanbit.common.errors import ConfigError
from hanbit.server.app import build_app
from hanbit.server.frontends import page
from hanbit.server.restrictions import APIS, api_of_method, api_of_path, parse_restrictions
from tests.server.asking import Http
from tests.server.served import serving


def test_every_path_and_call_belongs_to_a_part(served: Any) -> None:
    routes = [route for route in build_app(served.catalogue).routes if hasattr(route, "methods")]
    for route in routes:
        path = route.path
        for name in ("model", "version", "region", "repository", "id"):
            path = path.replace(f"{{{name}}}", "a").replace(f"{{{name}:path}}", "a")
        if path not in page.FILES and not path.endswith("{path:path}"):
            assert api_of_path(path) in APIS, path
    for method in service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods:
        assert api_of_method(f"/inference.GRPCInferenceService/{method.name}") in APIS, method.name


@pytest.mark.parametrize("name", ["a\n", "\n", "a b", "%2f", "."])
def test_a_strange_name_leads_round_no_restriction(name: str) -> None:
    assert api_of_path(f"/v2/systemsharedmemory/region/{name}/register") == "shared-memory"
    assert api_of_path(f"/v2/models/{name}/infer") == "inference"
    assert api_of_path(f"/v2/repository/models/{name}/load") == "model-repository"


def test_what_is_restricted_wants_its_header_and_the_rest_does_not(repository: Path) -> None:
    http_rules = parse_restrictions("--http-restricted-api", ["model-repository,health:admin-key=secret"])
    grpc_rules = parse_restrictions("--grpc-restricted-protocol", ["shared-memory,statistics:admin-key=secret"])
    with serving(repository, http_restrictions=http_rules, grpc_restrictions=grpc_rules) as served:
        http = Http(served.http)
        for path, method in (
            ("/v2/repository/index", "POST"),
            ("/v2/health/live", "GET"),
            ("/v2/models/small/ready", "GET"),
        ):
            assert http.ask(path, b"", method).status == 403
            assert http.ask(path, b"", method, admin_key="wrong").status == 403
            assert http.ask(path, b"", method, Admin_Key="secret").status == 200
            assert b"secret" not in http.ask(path, b"", method).content
        assert http.ask("/v2", method="GET").status == 200
        triton = grpc_client.InferenceServerClient(served.grpc)
        for call in (triton.get_inference_statistics, triton.get_system_shared_memory_status):
            with pytest.raises(grpc_client.InferenceServerException, match="PERMISSION_DENIED"):
                call()
            call(headers={"triton-grpc-protocol-admin-key": "secret"})
            call(headers={"admin-key": "secret"})
        assert triton.is_server_live()
        with grpc.insecure_channel(served.grpc) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            assert stub.ServerMetadata(service_pb2.ServerMetadataRequest()).name == "hanbit"


@pytest.mark.parametrize(
    "text", ["health", "health:key", "health:=v", "health:key=", "wealth:key=v", "health,health:k=v", ":k=v"]
)
def test_what_is_no_restriction_is_refused_without_its_value(text: str) -> None:
    with pytest.raises(ConfigError, match="--http-restricted-api") as caught:
        parse_restrictions("--http-restricted-api", [text])
    assert "=v" not in str(caught.value).replace("HEADER=VALUE", "")


def test_a_larger_limit_lets_larger_bodies_in_and_a_smaller_one_does_not(repository: Path) -> None:
    body = {"text_input": "The", "max_tokens": 1, "id": "x" * 2000}
    for limit, status in ((1000, 413), (10_000, 200)):
        with serving(repository, max_input_bytes=limit) as served:
            assert Http(served.http).ask("/v2/models/small/generate", body).status == status

"""TLS and mTLS of every port, asked by Triton's clients and httpx; what is no certificate is refused before ports are
taken."""

import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx2
import pytest
import tritonclient.grpc as grpc_client
from tritonclient.grpc import service_pb2, service_pb2_grpc

from hanbit.common.errors import ConfigError
from hanbit.server.tls import Tls
from tests.server.asking import inputs, text_of
from tests.server.served import Served, serving


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def signed(folder: Path, name: str, authority: str) -> None:
    """NAME.key and NAME.pem for 127.0.0.1."""
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{folder}/{name}.key", "-out", f"{folder}/{name}.csr",
            "-subj", f"/CN={name}")  # fmt: skip
    (folder / "extensions").write_text("subjectAltName=IP:127.0.0.1\n")
    openssl("x509", "-req", "-in", f"{folder}/{name}.csr", "-CA", f"{folder}/{authority}.pem", "-CAkey",
            f"{folder}/{authority}.key", "-CAcreateserial", "-days", "2", "-extfile", f"{folder}/extensions",
            "-out", f"{folder}/{name}.pem")  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    for name in ("authority", "stranger"):
        openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{folder}/{name}.key", "-out",
                f"{folder}/{name}.pem", "-days", "2", "-subj", f"/CN={name}")  # fmt: skip
    signed(folder, "server", "authority")
    signed(folder, "client", "authority")
    signed(folder, "intruder", "stranger")
    return folder


def tls(folder: Path, client_ca: str | None = None) -> Tls:
    return Tls(folder / "server.pem", folder / "server.key", None if client_ca is None else folder / client_ca)


@pytest.fixture(scope="module")
def served(repository: Path, folder: Path) -> Iterator[Served]:
    with serving(repository, tls=tls(folder)) as found:
        yield found


@pytest.fixture(scope="module")
def asking(repository: Path, folder: Path) -> Iterator[Served]:
    """Clients must show a certificate."""
    with serving(repository, tls=tls(folder, "authority.pem")) as found:
        yield found


def context(folder: Path, client: str | None = None) -> ssl.SSLContext:
    found = ssl.create_default_context(cafile=folder / "authority.pem")
    if client is not None:
        found.load_cert_chain(folder / f"{client}.pem", folder / f"{client}.key")
    return found


def test_http_grpc_and_metrics_are_answered_over_tls(served: Served, folder: Path) -> None:
    for place, path in ((served.http, "/v2"), (served.metrics, "/metrics")):
        assert httpx2.get(f"https://{place}{path}", verify=context(folder)).status_code == 200
        with pytest.raises(httpx2.HTTPError):
            httpx2.get(f"http://{place}{path}", timeout=5)
        with pytest.raises(httpx2.ConnectError):  # another authority's
            httpx2.get(f"https://{place}{path}", verify=ssl.create_default_context())
    triton = grpc_client.InferenceServerClient(served.grpc, ssl=True, root_certificates=str(folder / "authority.pem"))
    assert text_of(triton.infer("small", inputs(grpc_client, max_tokens=2)))
    assert served.ready_line.count("https://") == 1


def test_a_client_without_a_certificate_is_turned_away(asking: Served, folder: Path) -> None:
    authority = (folder / "authority.pem").read_bytes()
    for client in (None, "intruder"):
        for place, path in ((asking.http, "/v2/health/live"), (asking.metrics, "/metrics")):
            with pytest.raises(httpx2.HTTPError):
                httpx2.get(f"https://{place}{path}", verify=context(folder, client), timeout=5)
        pair = () if client is None else [(folder / f"{client}.{end}").read_bytes() for end in ("key", "pem")]
        assert live(asking.grpc, grpc.ssl_channel_credentials(authority, *pair)) == grpc.StatusCode.UNAVAILABLE


def test_a_client_with_one_is_let_in(asking: Served, folder: Path) -> None:
    assert httpx2.get(f"https://{asking.http}/v2", verify=context(folder, "client")).status_code == 200
    pair = [(folder / f"client.{end}").read_bytes() for end in ("key", "pem")]
    credentials = grpc.ssl_channel_credentials((folder / "authority.pem").read_bytes(), *pair)
    assert live(asking.grpc, credentials) == grpc.StatusCode.OK


def live(place: str, credentials: Any) -> grpc.StatusCode:
    with grpc.secure_channel(place, credentials) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        try:
            stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=5)
        except grpc.RpcError as problem:
            return problem.code()
    return grpc.StatusCode.OK


def test_what_is_no_certificate_is_refused(folder: Path, tmp_path: Path) -> None:
    tls(folder, "authority.pem").check()
    (tmp_path / "text").write_text("hello")
    openssl("genrsa", "-aes128", "-passout", "pass:secret", "-out", f"{tmp_path}/locked.key", "2048")
    certificate, key = folder / "server.pem", folder / "server.key"
    for wrong, said in (
        (Tls(certificate), "give both"),
        (Tls(None, key), "give both"),
        (Tls(client_ca=certificate), "give --ssl-certfile"),
        (Tls(tmp_path / "none", key), "no certificate and its key"),
        (Tls(tmp_path / "text", key), "no certificate and its key"),
        (Tls(certificate, folder / "client.key"), "no certificate and its key"),
        (Tls(certificate, tmp_path / "locked.key"), "without a password"),
        (Tls(certificate, key, tmp_path / "text"), "has no certificates"),
    ):
        with pytest.raises(ConfigError, match=said):
            wrong.check()

"""The server that is asked: plain HTTP by the standard library, gRPC by the generated stub."""

import contextlib
import functools
import http.client
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from email.message import Message
from typing import Any

from grpc import insecure_channel
from tritonclient.grpc import service_pb2_grpc as services

from hanbit.common.errors import LaunchError

PATIENCE_SECONDS = 30.0


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Message
    content: bytes

    def json(self) -> Any:
        """Raises ValueError where it is none."""
        return json.loads(self.content)

    @property
    def error(self) -> str | None:
        """The text under "error", where the body is the protocol's error object."""
        with contextlib.suppress(ValueError):
            found = self.json()
            if isinstance(found, dict) and isinstance(found.get("error"), str):
                return found["error"]
        return None

    def events(self) -> list[Any]:
        """Of server-sent events, each a JSON object after `data: `."""
        blocks = [block for block in self.content.decode().split("\n\n") if block]
        return [json.loads(block.removeprefix("data: ")) for block in blocks]

    def __str__(self) -> str:
        return f"{self.status} {self.content[:160]!r}"


@dataclass
class Server:
    """`http`, `grpc`: host:port."""

    http: str
    grpc: str

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Reply:
        """`body`: bytes as they are, anything else as JSON; a connection for each request."""
        content = body if isinstance(body, bytes | type(None)) else json.dumps(body).encode()
        connection = http.client.HTTPConnection(self.http, timeout=PATIENCE_SECONDS)
        try:
            connection.request(method, path, content, headers or {})
            response = connection.getresponse()
            return Reply(response.status, response.headers, response.read())
        finally:
            connection.close()

    def get(self, path: str, headers: dict[str, str] | None = None) -> Reply:
        return self.ask("GET", path, None, headers)

    def post(self, path: str, body: Any = b"", headers: dict[str, str] | None = None) -> Reply:
        return self.ask("POST", path, body, headers)

    def infer(self, model: str, inputs: Sequence[Any], **more: Any) -> Reply:
        """JSON in; `more`: outputs, parameters, id."""
        return self.post(f"/v2/models/{model}/infer", {"inputs": inputs, **more})

    @functools.cached_property
    def channel(self) -> Any:
        return insecure_channel(self.grpc)

    @functools.cached_property
    def stub(self) -> Any:
        return services.GRPCInferenceServiceStub(self.channel)

    @functools.cached_property
    def metadata(self) -> dict[str, Any]:
        return self.get("/v2").json()

    def name(self) -> str:
        """What it calls itself. Raises LaunchError if there is no server of KServe v2."""
        try:
            return str(self.metadata["name"])
        except (OSError, ValueError, KeyError, TypeError) as problem:
            raise LaunchError(f"http://{self.http}/v2 is no server of KServe v2: {problem!r:.200}") from None

    @contextlib.contextmanager
    def open(self) -> Iterator["Server"]:
        """Closes the gRPC channel at the end, if there was one."""
        try:
            yield self
        finally:
            if "channel" in self.__dict__:
                self.channel.close()

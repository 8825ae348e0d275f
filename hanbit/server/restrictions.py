"""Parts of KServe v2 that an operator restricts: who asks for them sends a header with a value, as Triton has it.

Beside the keys (access.py), and checked at the same places: one per protocol that every request goes through.
"""

import hmac
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from hanbit.common.errors import ConfigError
from hanbit.server.errors import RequestError

APIS = (
    "health", "metadata", "inference", "shared-memory", "model-config", "model-repository", "statistics", "trace",
    "logging",
)  # fmt: skip
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
# by how a path ends, or what it has in it; the first that fits
_PATHS = tuple(
    (re.compile(pattern, re.DOTALL), api)
    for pattern, api in (
        (r"/v2/health/.*|/v2/models/[^/]+(/versions/[^/]+)?/ready", "health"),
        (r".*/(infer|generate|generate_stream)", "inference"),
        (r"/v2/(system|cuda)sharedmemory(/.*)?", "shared-memory"),
        (r"/v2/models/[^/]+(/versions/[^/]+)?/config", "model-config"),
        (r"/v2/repository(/.*)?", "model-repository"),
        (r"/v2/models/stats|/v2/models/[^/]+(/versions/[^/]+)?/stats", "statistics"),
        (r"/v2(/models/[^/]+)?/trace/setting", "trace"),
        (r"/v2/logging", "logging"),
        (r"/v2/?|/v2/models/[^/]+(/versions/[^/]+)?", "metadata"),
        (r"/v1/(chat/)?completions|/v1/embeddings|/tokenize|/detokenize", "inference"),
        (r"/v1/models(/.*)?|/page/state|/metrics", "metadata"),
    )
)
_METHODS = {
    "ServerLive": "health", "ServerReady": "health", "ModelReady": "health", "Check": "health", "Watch": "health",
    "ServerMetadata": "metadata", "ModelMetadata": "metadata", "ModelInfer": "inference",
    "ModelStreamInfer": "inference", "ModelConfig": "model-config", "ModelStatistics": "statistics",
    "RepositoryIndex": "model-repository", "RepositoryModelLoad": "model-repository",
    "RepositoryModelUnload": "model-repository", "TraceSetting": "trace", "LogSettings": "logging",
}  # fmt: skip


@dataclass(frozen=True)
class Restrictions:
    """`headers`: which header, in lower case, and which value of it a part wants."""

    headers: Mapping[str, tuple[str, str]] = field(default_factory=dict, repr=False)

    def check(self, api: str | None, header: Callable[[str], str | None]) -> None:
        """`header`: the value of a header of the request. Raises RequestError, which does not tell the value."""
        wanted = self.headers.get(api or "")
        if wanted is None:
            return
        name, value = wanted
        if not hmac.compare_digest((header(name) or "").encode(), value.encode()):
            raise RequestError("forbidden", f"this server restricts {api}: its operator says which header opens it")


def parse_restrictions(flag: str, values: list[str]) -> Restrictions:
    """Each "API,API:HEADER=VALUE", Triton's form. Raises ConfigError, which does not repeat the value."""
    found: dict[str, tuple[str, str]] = {}
    for text in values:
        names, colon, pair = text.partition(":")
        header, equals, value = pair.partition("=")
        if not colon or not equals or not value or not _HEADER.fullmatch(header):
            raise ConfigError(f"{flag} must be API,API:HEADER=VALUE, as in {flag} inference,trace:admin-key=SECRET")
        for api in names.split(","):
            if api not in APIS:
                raise ConfigError(f"{flag}: there is no part {api!r:.40}; there are {', '.join(APIS)}")
            if api in found:
                raise ConfigError(f"{flag} restricts {api} twice")
            found[api] = (header.lower(), value)
    return Restrictions(found)


def api_of_path(path: str) -> str | None:
    """Which part a path belongs to; None: none that can be restricted (the page's files)."""
    return next((api for pattern, api in _PATHS if pattern.fullmatch(path)), None)


def api_of_method(method: str) -> str | None:
    """Of a gRPC method's full name."""
    name = method.rpartition("/")[2]
    return "shared-memory" if "SharedMemory" in name else _METHODS.get(name)

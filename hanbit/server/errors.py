"""What a request can come to, once for all protocols: a kind, and what HTTP and gRPC call it.

Triton's mapping: not found 404, unavailable 503, unsupported 501, internal 500, everything else 400; and 504 for an
answer whose time was up.
"""

import logging
from typing import Literal

import grpc

from hanbit.common.errors import DeadlinePassed, EngineBusy, EngineClosed, EngineFailed, HanbitError

log = logging.getLogger(__name__)

Kind = Literal[
    "invalid",
    "unauthorized",
    "forbidden",
    "not_found",
    "too_large",
    "exists",
    "cancelled",
    "busy",
    "unavailable",
    "late",
    "unsupported",
    "unknown",
    "internal",
]

_HTTP: dict[Kind, int] = {
    "invalid": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "too_large": 413,
    "exists": 400,
    "cancelled": 499,
    "busy": 503,
    "unavailable": 503,
    "late": 504,
    "unsupported": 501,
    "unknown": 400,
    "internal": 500,
}
_GRPC: dict[Kind, grpc.StatusCode] = {
    "invalid": grpc.StatusCode.INVALID_ARGUMENT,
    "unauthorized": grpc.StatusCode.UNAUTHENTICATED,
    "forbidden": grpc.StatusCode.PERMISSION_DENIED,
    "not_found": grpc.StatusCode.NOT_FOUND,
    "too_large": grpc.StatusCode.INVALID_ARGUMENT,
    "exists": grpc.StatusCode.ALREADY_EXISTS,
    "cancelled": grpc.StatusCode.CANCELLED,
    "busy": grpc.StatusCode.UNAVAILABLE,
    "unavailable": grpc.StatusCode.UNAVAILABLE,
    "late": grpc.StatusCode.DEADLINE_EXCEEDED,
    "unsupported": grpc.StatusCode.UNIMPLEMENTED,
    "unknown": grpc.StatusCode.UNKNOWN,
    "internal": grpc.StatusCode.INTERNAL,
}


class RequestError(Exception):
    """A request that is not served. `busy`: full for now, try again; `unavailable`: a model or the server is away."""

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message

    @property
    def http_status(self) -> int:
        return _HTTP[self.kind]

    @property
    def grpc_status(self) -> grpc.StatusCode:
        return _GRPC[self.kind]


def invalid(message: str) -> RequestError:
    return RequestError("invalid", message)


def as_request_error(problem: Exception, is_logged: bool = True) -> RequestError:
    """Any exception as the client may see it. What nobody foresaw is logged here, once, and told to no stranger."""
    if isinstance(problem, RequestError):
        return problem
    if isinstance(problem, EngineBusy):
        return RequestError("busy", str(problem))
    if isinstance(problem, EngineClosed):
        return RequestError("unavailable", str(problem))
    if isinstance(problem, EngineFailed):
        return RequestError("internal", str(problem))
    if isinstance(problem, DeadlinePassed):
        return RequestError("late", str(problem))
    if isinstance(problem, HanbitError):
        return invalid(str(problem))
    if is_logged:
        log.error("a request failed: %s", problem, exc_info=problem)
    return RequestError("internal", "the server failed at this request; its log says why")

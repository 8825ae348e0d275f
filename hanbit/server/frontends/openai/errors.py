"""A request that is refused, in the shape that OpenAI's clients turn into their exceptions.

https://platform.openai.com/docs/guides/error-codes. The clients try 429 and 5xx again, so nothing that would fail
again may have such a status.
"""

from dataclasses import dataclass
from typing import Any

from starlette.responses import JSONResponse

from hanbit.server.errors import Kind, as_request_error

RETRY_AFTER_SECONDS = 1

_STATUS: dict[Kind, int] = {"busy": 429}  # /v2 answers 503, as Triton does
_TYPE: dict[Kind, str] = {
    "unauthorized": "authentication_error",
    "forbidden": "permission_error",
    "busy": "rate_limit_error",
    "unavailable": "server_error",
    "internal": "server_error",
}
_CODE: dict[Kind, str] = {
    "busy": "rate_limit_exceeded",
    "too_large": "request_too_large",
    "unavailable": "service_unavailable",
    "internal": "internal_error",
}


@dataclass
class Refusal(Exception):
    """`param`: the field at fault; `code`: what programs look at."""

    message: str
    param: str | None = None
    code: str | None = None
    status: int = 400
    type: str = "invalid_request_error"

    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if self.status in (429, 503) else None
        return JSONResponse(self.body(), self.status, headers)


def as_refusal(problem: Exception) -> Refusal:
    """Any exception as the client may see it; what nobody foresaw is logged and told to no stranger."""
    if isinstance(problem, Refusal):
        return problem
    error = as_request_error(problem)
    return Refusal(
        error.message,
        code=_CODE.get(error.kind),
        status=_STATUS.get(error.kind, error.http_status),
        type=_TYPE.get(error.kind, "invalid_request_error"),
    )

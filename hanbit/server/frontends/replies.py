"""What every part of KServe v2 over HTTP answers with: JSON, or an error in the protocol's shape."""

import json
from typing import Any

from starlette.responses import Response

from hanbit.server.errors import as_request_error


def json_response(value: Any, status: int = 200) -> Response:
    """As json.dumps writes it; NaN stays NaN, as with Triton."""
    return Response(json.dumps(value, ensure_ascii=False), status, media_type="application/json")


def error_response(problem: Exception) -> Response:
    error = as_request_error(problem)
    response = json_response({"error": error.message}, error.http_status)
    if error.http_status == 503:
        response.headers["Retry-After"] = "1"
    return response

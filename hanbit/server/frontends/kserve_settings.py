"""The parts of KServe v2 over HTTP that are about the server: shared memory, what is traced, what is logged."""

import base64
import binascii
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from hanbit.server.errors import RequestError, invalid
from hanbit.server.frontends.body import read_body
from hanbit.server.frontends.replies import json_response
from hanbit.server.models import Catalogue
from hanbit.server.strict_json import parse_object

_MOST_SETTINGS = 64
_CUDA_HANDLE_BYTES = 64


async def trace(catalogue: Catalogue, request: Request) -> Response:
    """GET tells, POST changes; of a model, or of the server."""
    tracing, model = catalogue.extensions.tracing, request.path_params.get("model", "")
    if model:
        catalogue.find(model)
    if request.method == "GET":
        return json_response(tracing.as_json(model))
    return json_response(tracing.update(model, await _settings(request)))


async def logging(catalogue: Catalogue, request: Request) -> Response:
    settings = catalogue.extensions.log_settings
    if request.method == "GET":
        return json_response(settings.as_json())
    return json_response(settings.update(await _settings(request)))


async def region_status(catalogue: Catalogue, request: Request) -> Response:
    return json_response(catalogue.extensions.shared_memory.status(request.path_params.get("region", "")))


async def register_region(catalogue: Catalogue, request: Request) -> Response:
    body = parse_object(await read_body(request), "the request")
    memory = catalogue.extensions.shared_memory
    memory.register(request.path_params["region"], body.get("key"), body.get("offset", 0), body.get("byte_size"))
    return Response(media_type="application/json")


async def unregister_region(catalogue: Catalogue, request: Request) -> Response:
    catalogue.extensions.shared_memory.unregister(request.path_params.get("region", ""))
    return Response(media_type="application/json")


async def cuda_status(catalogue: Catalogue, request: Request) -> Response:
    return json_response(cuda_regions(request.path_params.get("region", "")))


async def register_cuda(catalogue: Catalogue, request: Request) -> Response:
    body = parse_object(await read_body(request), "the request")
    handle = body.get("raw_handle")
    text = handle.get("b64") if isinstance(handle, dict) else None
    try:
        data = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError):
        data = b""
    refuse_cuda(data)
    return Response(media_type="application/json")


async def unregister_cuda(catalogue: Catalogue, request: Request) -> Response:
    """There is none, so it is gone."""
    return Response(media_type="application/json")


def cuda_regions(name: str) -> list[dict[str, Any]]:
    """There is no CUDA memory here that clients could share. Raises RequestError for a region that is named."""
    if name:
        raise RequestError("not_found", f"there is no cuda shared memory region {name!r:.80}")
    return []


def refuse_cuda(handle: bytes) -> None:
    """As Triton without CUDA does. Raises RequestError."""
    if len(handle) != _CUDA_HANDLE_BYTES:
        raise invalid(f"raw_handle must be a cudaIpcMemHandle_t of {_CUDA_HANDLE_BYTES} bytes, in base64")
    raise invalid("this server shares no CUDA memory: send the data, or use system shared memory")


async def _settings(request: Request) -> dict[str, Any]:
    found = parse_object(await read_body(request), "the request")
    if len(found) > _MOST_SETTINGS:
        raise invalid(f"{len(found)} settings are more than there are")
    return found

"""KServe v2 over HTTP: what Triton answers on its port 8000, with the same paths, bodies and status codes."""

import contextlib
import json
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from hanbit.repository.config_json import config_as_json
from hanbit.server.describe import model_statistics, repository_index, server_metadata
from hanbit.server.errors import RequestError, as_request_error
from hanbit.server.frontends.body import read_body
from hanbit.server.frontends.generate import generate, generate_stream
from hanbit.server.frontends.http_tensors import HEADER_LENGTH, parameters_of, parse_request, response_body
from hanbit.server.frontends.listening import ClientGone, PartsResponse, unless_gone
from hanbit.server.frontends.strict_json import parse_object
from hanbit.server.model import ServedModel
from hanbit.server.models import Catalogue

Handler = Callable[[Catalogue, Request], Awaitable[Response]]
_CLIENT_GONE = 499  # nginx's word for it; nobody is there to read it
_NOT_OFFERED = ("systemsharedmemory", "cudasharedmemory", "trace", "logging")


def routes(catalogue: Catalogue) -> list[Route]:
    """The last one catches all of /v2, so that a wrong path is answered in the protocol's shape."""
    model = "/v2/models/{model}"
    found = []
    for path in (model, f"{model}/versions/{{version}}"):  # first what is asked most: routes are tried in their order
        found += [
            Route(f"{path}/infer", _answer(catalogue, _infer), methods=["POST"]),
            Route(f"{path}/generate", _answer(catalogue, _generate), methods=["POST"]),
            Route(f"{path}/generate_stream", _answer(catalogue, _generate_stream), methods=["POST"]),
        ]
    found += [
        Route("/v2", _answer(catalogue, _server)),
        Route("/v2/health/live", _answer(catalogue, _live)),
        Route("/v2/health/ready", _answer(catalogue, _ready)),
        Route("/v2/models/stats", _answer(catalogue, _statistics)),
        Route("/v2/repository/index", _answer(catalogue, _index), methods=["GET", "POST"]),
        Route("/v2/repository/models/{model}/load", _answer(catalogue, _load), methods=["POST"]),
        Route("/v2/repository/models/{model}/unload", _answer(catalogue, _unload), methods=["POST"]),
    ]
    for path in (model, f"{model}/versions/{{version}}"):
        found += [
            Route(path, _answer(catalogue, _metadata)),
            Route(f"{path}/ready", _answer(catalogue, _model_ready)),
            Route(f"{path}/config", _answer(catalogue, _config)),
            Route(f"{path}/stats", _answer(catalogue, _statistics)),
        ]
    return [*found, Route("/v2/{path:path}", _answer(catalogue, _unknown), methods=["GET", "POST"])]


def json_response(value: Any, status: int = 200) -> Response:
    """As json.dumps writes it; NaN stays NaN, as with Triton."""
    return Response(json.dumps(value, ensure_ascii=False), status, media_type="application/json")


def error_response(problem: Exception) -> Response:
    error = as_request_error(problem)
    response = json_response({"error": error.message}, error.http_status)
    if error.http_status == 503:
        response.headers["Retry-After"] = "1"
    return response


def _answer(catalogue: Catalogue, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """The handler, with whatever goes wrong as {"error": ...}."""

    async def endpoint(request: Request) -> Response:
        try:
            return await handler(catalogue, request)
        except (ClientDisconnect, ClientGone):
            return Response(status_code=_CLIENT_GONE)
        except Exception as problem:
            return error_response(problem)

    return endpoint


async def _server(catalogue: Catalogue, request: Request) -> Response:
    return json_response(server_metadata())


async def _live(catalogue: Catalogue, request: Request) -> Response:
    return Response()


async def _ready(catalogue: Catalogue, request: Request) -> Response:
    return Response(status_code=200 if catalogue.is_server_ready else 503)


async def _model_ready(catalogue: Catalogue, request: Request) -> Response:
    is_ready = catalogue.is_ready(request.path_params["model"], request.path_params.get("version", ""))
    return Response(status_code=200 if is_ready else 503)


async def _metadata(catalogue: Catalogue, request: Request) -> Response:
    return json_response(_model(catalogue, request).metadata())


async def _config(catalogue: Catalogue, request: Request) -> Response:
    return json_response(config_as_json(_model(catalogue, request).config))


async def _statistics(catalogue: Catalogue, request: Request) -> Response:
    path = request.path_params
    return json_response(model_statistics(catalogue, path.get("model", ""), path.get("version", "")))


async def _index(catalogue: Catalogue, request: Request) -> Response:
    body = await _optional_object(request)
    return json_response(repository_index(catalogue, body.get("ready") is True))


async def _load(catalogue: Catalogue, request: Request) -> Response:
    body = await _optional_object(request)
    if parameters_of(body.get("parameters"), "the request"):
        raise RequestError("unsupported", "load takes no config and no files here: edit the repository, then load")
    await catalogue.load_by_client(request.path_params["model"])
    return Response()


async def _unload(catalogue: Catalogue, request: Request) -> Response:
    body = await _optional_object(request)
    parameters = parameters_of(body.get("parameters"), "the request")
    with_members = parameters.get("unload_dependents") is True
    await catalogue.unload_by_client(request.path_params["model"], with_members)
    return Response()


async def _infer(catalogue: Catalogue, request: Request) -> Response:
    model = _model(catalogue, request)
    asked = parse_request(model, await read_body(request), request.headers.get(HEADER_LENGTH))
    response = await unless_gone(request.receive, model.one(asked))
    parts, headers = response_body(model, asked, response)
    return PartsResponse(parts, headers) if len(parts) > 1 else Response(parts[0], headers=headers)


async def _generate(catalogue: Catalogue, request: Request) -> Response:
    model = _model(catalogue, request)
    body = parse_object(await read_body(request), "the request")
    return json_response(await unless_gone(request.receive, generate(model, body)))


async def _generate_stream(catalogue: Catalogue, request: Request) -> Response:
    model = _model(catalogue, request)
    body = parse_object(await read_body(request), "the request")
    return await generate_stream(model, body, request.receive)


async def _unknown(catalogue: Catalogue, request: Request) -> Response:
    path = request.path_params["path"]
    if any(part in _NOT_OFFERED for part in path.split("/")):
        raise RequestError("unsupported", f"/v2/{path:.80} is not offered by this server")
    raise RequestError("not_found", f"there is no {request.method} /v2/{path:.80}")


def _model(catalogue: Catalogue, request: Request) -> ServedModel:
    return catalogue.find(request.path_params["model"], request.path_params.get("version", ""))


async def _optional_object(request: Request) -> dict[str, Any]:
    body = await read_body(request)
    with contextlib.suppress(UnicodeDecodeError):
        if not body.decode().strip():
            return {}
    return parse_object(body, "the request")

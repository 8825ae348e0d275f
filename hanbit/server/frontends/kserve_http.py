"""KServe v2 over HTTP: what Triton answers on its port 8000, with the same paths, bodies and status codes."""

import contextlib
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from hanbit.repository.config_json import config_as_json
from hanbit.server.describe import model_statistics, repository_index, server_metadata
from hanbit.server.errors import RequestError
from hanbit.server.frontends import kserve_settings as settings
from hanbit.server.frontends.body import read_body
from hanbit.server.frontends.generate import generate, generate_stream
from hanbit.server.frontends.http_tensors import HEADER_LENGTH, parameters_of, parse_request, response_body
from hanbit.server.frontends.listening import ClientGone, unless_gone
from hanbit.server.frontends.packing import packed
from hanbit.server.frontends.replies import error_response, json_response
from hanbit.server.frontends.traced import traced
from hanbit.server.model import ServedModel
from hanbit.server.models import Catalogue
from hanbit.server.strict_json import parse_object

Handler = Callable[[Catalogue, Request], Awaitable[Response]]
_CLIENT_GONE = 499  # nginx's word for it; nobody is there to read it
_MODEL = "/v2/models/{model}"


def routes(catalogue: Catalogue) -> list[Route]:
    """The last one catches all of /v2, so that a wrong path is answered in the protocol's shape."""
    found = []
    for path in (_MODEL, f"{_MODEL}/versions/{{version}}"):  # first what is asked most: routes are tried in their order
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
        *_repository(catalogue),
        *_server_settings(catalogue),
    ]
    for path in (_MODEL, f"{_MODEL}/versions/{{version}}"):
        found += [
            Route(path, _answer(catalogue, _metadata)),
            Route(f"{path}/ready", _answer(catalogue, _model_ready)),
            Route(f"{path}/config", _answer(catalogue, _config)),
            Route(f"{path}/stats", _answer(catalogue, _statistics)),
        ]
    paths = [(route.path_regex, route.methods or set()) for route in found]
    return [*found, Route("/v2/{path:path}", _answer(catalogue, _unknown(paths)), methods=["GET", "POST"])]


def _repository(catalogue: Catalogue) -> list[Route]:
    """Triton's paths, with a repository's name and without."""
    found = []
    for path in ("/v2/repository", "/v2/repository/{repository}"):
        found += [
            Route(f"{path}/index", _answer(catalogue, _index), methods=["GET", "POST"]),
            Route(f"{path}/models/{{model}}/load", _answer(catalogue, _load), methods=["POST"]),
            Route(f"{path}/models/{{model}}/unload", _answer(catalogue, _unload), methods=["POST"]),
        ]
    return found


def _server_settings(catalogue: Catalogue) -> list[Route]:
    both, post = ["GET", "POST"], ["POST"]
    found = [
        Route("/v2/logging", _answer(catalogue, settings.logging), methods=both),
        Route("/v2/trace/setting", _answer(catalogue, settings.trace), methods=both),
        Route(f"{_MODEL}/trace/setting", _answer(catalogue, settings.trace), methods=both),
    ]
    for path, status, register, unregister in (
        ("system", settings.region_status, settings.register_region, settings.unregister_region),
        ("cuda", settings.cuda_status, settings.register_cuda, settings.unregister_cuda),
    ):
        root, region = f"/v2/{path}sharedmemory", f"/v2/{path}sharedmemory/region/{{region}}"
        found += [Route(f"{one}/status", _answer(catalogue, status)) for one in (root, region)]
        found += [Route(f"{one}/unregister", _answer(catalogue, unregister), methods=post) for one in (root, region)]
        found.append(Route(f"{region}/register", _answer(catalogue, register), methods=post))
    return found


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
    return json_response(server_metadata(catalogue))


async def _live(catalogue: Catalogue, request: Request) -> Response:
    return Response()


async def _ready(catalogue: Catalogue, request: Request) -> Response:
    return Response(status_code=200 if catalogue.is_server_ready else 503)


async def _model_ready(catalogue: Catalogue, request: Request) -> Response:
    is_ready = catalogue.is_ready(request.path_params["model"], request.path_params.get("version", ""))
    return Response() if is_ready else json_response({"error": "the model is not ready"}, 503)


async def _metadata(catalogue: Catalogue, request: Request) -> Response:
    return json_response(_model(catalogue, request).metadata(request.path_params.get("version", "")))


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
    _check_repository(request)
    parameters = parameters_of(body.get("parameters"), "the request")
    await catalogue.load_by_client(request.path_params["model"], parameters)
    return Response(media_type="application/json")


async def _unload(catalogue: Catalogue, request: Request) -> Response:
    body = await _optional_object(request)
    parameters = parameters_of(body.get("parameters"), "the request")
    _check_repository(request)
    with_members = parameters.get("unload_dependents") is True
    await catalogue.unload_by_client(request.path_params["model"], with_members)
    return Response(media_type="application/json")


def _check_repository(request: Request) -> None:
    """As with Triton, a model's name says which repository it is of. Raises RequestError."""
    if "repository" in request.path_params:
        raise RequestError("unsupported", "load and unload take no repository's name: models are told apart by theirs")


async def _infer(catalogue: Catalogue, request: Request) -> Response:
    model, memory = _model(catalogue, request), catalogue.extensions.shared_memory
    with traced(catalogue, model) as trace:
        asked = parse_request(model, await read_body(request), request.headers.get(HEADER_LENGTH), memory)
        response = await unless_gone(request.receive, model.one(trace.received(asked)))
        parts, headers = response_body(model, asked, response, memory)
        return trace.sends(await packed(parts, headers, request.headers.get("accept-encoding", "")))


async def _generate(catalogue: Catalogue, request: Request) -> Response:
    model = _model(catalogue, request)
    with traced(catalogue, model) as trace:
        body = parse_object(await read_body(request), "the request")
        found = await unless_gone(request.receive, generate(model, body, trace.received))
        return trace.sends(json_response(found))


async def _generate_stream(catalogue: Catalogue, request: Request) -> Response:
    model = _model(catalogue, request)
    with traced(catalogue, model) as trace:
        body = parse_object(await read_body(request), "the request")
        return trace.sends(await generate_stream(model, body, request.receive, trace.received))


def _unknown(paths: Sequence[tuple[re.Pattern[str], set[str]]]) -> Handler:
    """What has another method is told so."""

    async def answer(catalogue: Catalogue, request: Request) -> Response:
        path = request.url.path
        allowed = sorted({method for pattern, methods in paths if pattern.match(path) for method in methods})
        if not allowed:
            raise RequestError("not_found", f"there is no {request.method} {path:.80}")
        response = json_response({"error": f"{path:.80} is asked by {' or '.join(allowed)}"}, 405)
        response.headers["Allow"] = ", ".join(allowed)
        return response

    return answer


def _model(catalogue: Catalogue, request: Request) -> ServedModel:
    return catalogue.find(request.path_params["model"], request.path_params.get("version", ""))


async def _optional_object(request: Request) -> dict[str, Any]:
    body = await read_body(request)
    with contextlib.suppress(UnicodeDecodeError):
        if not body.decode().strip():
            return {}
    return parse_object(body, "the request")

"""The page at `/`: plain files of `server/page/`, and what it shows of the models, as JSON.

The chat itself goes through `/v1/chat/completions`, as anybody's would. The files hold nothing secret and are sent
without a key; `/page/state` is not one of them.
"""

import hashlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import asdict
from importlib.resources import files
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hanbit.engine.service import Service
from hanbit.server.language_model import LanguageModel
from hanbit.server.model import ServedModel
from hanbit.server.models import State

FILES: Mapping[str, tuple[str, str]] = {  # path: file, media type
    "/": ("index.html", "text/html"),
    "/page/style.css": ("style.css", "text/css"),
    "/page/app.js": ("app.js", "text/javascript"),
    "/page/icon.svg": ("icon.svg", "image/svg+xml"),
}
_HEADERS = {
    # nothing from elsewhere, nothing inline: what a model says cannot become script, whatever goes wrong
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",  # asked again each time, answered with 304
}


class Models(Protocol):
    """What is needed of the data plane's catalogue."""

    def index(self) -> list[State]: ...

    def served(self) -> list[ServedModel]: ...

    def language_models(self) -> dict[str, LanguageModel]: ...


def routes(models: Models) -> list[Route]:
    async def state(request: Request) -> Response:
        return JSONResponse(state_of(models), headers={"Cache-Control": "no-store"})

    static = [Route(path, _file(name, media_type)) for path, (name, media_type) in FILES.items()]
    return [*static, Route("/page/state", state)]


def state_of(models: Models) -> dict[str, Any]:
    """Every model of the index once, in its newest version, with the number of its engine if one can talk to it.

    Engines come apart: a base model and its adapters share one, and its counts are of all protocols.
    """
    talking = models.language_models()
    services = list(dict.fromkeys(model.service for model in talking.values()))
    requests = {model.name: model.statistics.success.count for model in models.served()}
    lines = {line.name: line for line in models.index()}
    return {
        "models": [_model(line, talking.get(line.name), services, requests) for line in lines.values()],
        "engines": [_engine(service) for service in services],
    }


def _model(
    line: State, talking: LanguageModel | None, services: list[Service], requests: Mapping[str, int]
) -> dict[str, Any]:
    return {
        "name": line.name,
        "state": line.state,
        "reason": line.reason,
        "requests": requests.get(line.name, 0),
        "engine": None if talking is None else services.index(talking.service),
        "is_adapter": talking is not None and talking.adapter is not None,
    }


def _engine(service: Service) -> dict[str, Any]:
    has_template = service.llm.tokenizer.chat_template is not None
    return {
        **asdict(service.counts()),
        "cache": asdict(service.cache_counts),
        "context": service.llm.context,
        "can_chat": has_template,
    }


def _file(name: str, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    content = files("hanbit.server").joinpath("page", name).read_bytes()
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {**_HEADERS, "ETag": tag}

    async def endpoint(request: Request) -> Response:
        if _names(request.headers.get("if-none-match", ""), tag):
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type=media_type)

    return endpoint


def _names(header: str, tag: str) -> bool:
    given: Iterable[str] = (item.strip().removeprefix("W/") for item in header.split(","))
    return tag in given

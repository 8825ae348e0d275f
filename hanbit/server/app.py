"""Every HTTP frontend in one ASGI application, behind one gate."""

import contextlib

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from hanbit.server.access import Keys, roles_of_http
from hanbit.server.errors import RequestError
from hanbit.server.frontends import kserve_http, metrics, openai, page
from hanbit.server.frontends.openai.errors import as_refusal
from hanbit.server.frontends.replies import error_response, json_response
from hanbit.server.models import Catalogue
from hanbit.server.options import MOST_INPUT_BYTES
from hanbit.server.restrictions import Restrictions, api_of_path

_OPEN = "/v2/health/"


def build_app(
    catalogue: Catalogue,
    keys: Keys | None = None,
    restrictions: Restrictions | None = None,
    max_input_bytes: int = MOST_INPUT_BYTES,
) -> Starlette:
    app = Starlette(
        routes=[
            *kserve_http.routes(catalogue),
            *openai.routes(catalogue),
            *page.routes(catalogue),
            *metrics.routes(catalogue),
        ],
        middleware=[
            Middleware(_Gate, catalogue=catalogue, keys=keys or Keys(), restrictions=restrictions or Restrictions())
        ],
        exception_handlers={HTTPException: _refused},
    )
    app.state.max_input_bytes = max_input_bytes
    return app


def build_metrics_app(catalogue: Catalogue, keys: Keys | None = None) -> Starlette:
    """For a port of its own, which a scraper may be let to and clients not."""
    return Starlette(
        routes=[*metrics.routes(catalogue)],
        middleware=[Middleware(_Gate, catalogue=catalogue, keys=keys or Keys(), restrictions=Restrictions())],
        exception_handlers={HTTPException: _refused},
    )


class _Gate:
    """Checks the key of every request but health checks and the page's files, and the headers of what is restricted;
    counts work, so that none gets lost when the server ends."""

    def __init__(self, app: ASGIApp, catalogue: Catalogue, keys: Keys, restrictions: Restrictions) -> None:
        self._app, self._catalogue, self._keys, self._restrictions = app, catalogue, keys, restrictions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in page.FILES:
            await self._app(scope, receive, send)
            return
        app: ASGIApp = self._app
        with contextlib.ExitStack() as work:
            try:
                headers = Request(scope).headers
                if not scope["path"].startswith(_OPEN):
                    self._keys.check(headers.get("authorization"), roles_of_http(scope["method"], scope["path"]))
                self._restrictions.check(api_of_path(scope["path"]), headers.get)
                if scope["method"] == "POST":
                    work.enter_context(self._catalogue.admission.one())
            except RequestError as problem:
                app = _as_response(problem, scope["path"])
            await app(scope, receive, send)


def _as_response(problem: RequestError, path: str) -> Response:
    """In the shape of the protocol that the path belongs to."""
    return as_refusal(problem).response() if path.startswith("/v1/") else error_response(problem)


async def _refused(request: Request, problem: Exception) -> Response:
    """A path or method that no route has."""
    assert isinstance(problem, HTTPException)
    message = f"{problem.detail}: {request.method} {request.url.path:.80}"
    return json_response({"error": message}, problem.status_code)

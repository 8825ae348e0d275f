"""Which path is answered by what. A wrong path or method under /v1 is refused in OpenAI's shape too."""

from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from hanbit.server.frontends.openai.chat import chat
from hanbit.server.frontends.openai.completions import complete
from hanbit.server.frontends.openai.embeddings import embed
from hanbit.server.frontends.openai.endpoint import Models, guarded
from hanbit.server.frontends.openai.errors import Refusal
from hanbit.server.frontends.openai.listing import list_models, show_model
from hanbit.server.frontends.openai.tokens import detokenize, tokenize

_HANDLERS = (
    ("/v1/models", "GET", list_models),
    ("/v1/models/{model:path}", "GET", show_model),
    ("/v1/completions", "POST", complete),
    ("/v1/chat/completions", "POST", chat),
    ("/v1/embeddings", "POST", embed),
    ("/tokenize", "POST", tokenize),
    ("/detokenize", "POST", detokenize),
)
_EVERY_METHOD = ["GET", "POST", "PUT", "PATCH", "DELETE"]


def routes(models: Models) -> list[Route]:
    """The last one catches all of /v1: put other routes under it before these."""
    found = [
        Route(path, guarded(partial(handler, models)), methods=[method], name=handler.__name__)
        for path, method, handler in _HANDLERS
    ]
    return [*found, Route("/v1/{path:path}", guarded(_unknown), methods=_EVERY_METHOD)]


async def _unknown(request: Request) -> Response:
    raise Refusal(f"there is no {request.method} {request.url.path:.100}", code="unknown_url", status=404)

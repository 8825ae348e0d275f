"""What every route does around its own work: find the model, read the body, turn an exception into an answer."""

import uuid
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from hanbit.server.embedding_model import EmbeddingModel
from hanbit.server.frontends.listening import ClientGone
from hanbit.server.frontends.openai.errors import Refusal, as_refusal
from hanbit.server.language_model import LanguageModel

Handler = Callable[[Request], Awaitable[Response]]

_CLIENT_CLOSED_REQUEST = 499  # nginx's word for it; nobody is there to read it


class Models(Protocol):
    """What is needed of the data plane's catalogue: the models that are ready, by name."""

    def language_models(self) -> dict[str, LanguageModel]: ...

    def embedding_models(self) -> dict[str, EmbeddingModel]: ...


def find(models: Models, name: str) -> LanguageModel:
    """Raises Refusal with the names that there are."""
    found = models.language_models()
    if name in models.embedding_models():
        raise Refusal(f"the model {name!r:.100} makes embeddings: ask /v1/embeddings", "model", "invalid_value")
    if name not in found:
        raise _absent(name, found, "no language model is ready")
    return found[name]


def find_embedder(models: Models, name: str) -> EmbeddingModel:
    """Raises Refusal with the names that there are."""
    found = models.embedding_models()
    if name in models.language_models():
        raise Refusal(f"the model {name!r:.100} generates text and makes no embeddings", "model", "invalid_value")
    if name not in found:
        raise _absent(name, found, "no model of embeddings is ready")
    return found[name]


def _absent(name: str, found: Iterable[str], nobody: str) -> Refusal:
    names = ", ".join(sorted(found))
    there = f"there is {names}" if names else nobody
    return Refusal(f"the model {name!r:.100} does not exist: {there}", "model", "model_not_found", 404)


def guarded(handler: Handler) -> Handler:
    """The handler, with any exception of its as an answer in OpenAI's shape, and an id that a user can quote."""

    async def endpoint(request: Request) -> Response:
        try:
            response = await handler(request)
        except (ClientDisconnect, ClientGone):
            response = Response(status_code=_CLIENT_CLOSED_REQUEST)
        except Exception as problem:
            response = as_refusal(problem).response()
        response.headers["x-request-id"] = f"req_{uuid.uuid4().hex}"
        return response

    return endpoint

"""`/v1/models`: the models that are ready; the context and an adapter's base are told as vLLM does."""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from hanbit.server.embedding_model import EmbeddingModel
from hanbit.server.frontends.openai.endpoint import Models, find
from hanbit.server.language_model import LanguageModel


async def list_models(models: Models, request: Request) -> Response:
    found = models.language_models()
    told = [_described(model, found) for model in found.values()]
    told += [_described_embedder(model) for model in models.embedding_models().values()]
    return JSONResponse({"object": "list", "data": told})


async def show_model(models: Models, request: Request) -> Response:
    name = request.path_params["model"]
    if name in models.embedding_models():
        return JSONResponse(_described_embedder(models.embedding_models()[name]))
    model = find(models, name)
    return JSONResponse(_described(model, models.language_models()))


def _described(model: LanguageModel, found: dict[str, LanguageModel]) -> dict[str, Any]:
    bases = [one.name for one in found.values() if one.service is model.service and one.adapter is None]
    parent = next(iter(bases), None) if model.adapter is not None else None
    return _entry(model.name, model.created, model.service.llm.context, parent)


def _described_embedder(model: EmbeddingModel) -> dict[str, Any]:
    return _entry(model.name, model.created, model.service.embedder.context, None)


def _entry(name: str, created: int, context: int, parent: str | None) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "hanbit",
        "max_model_len": context,
        "parent": parent,
    }

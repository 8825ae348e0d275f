"""`/v1/models`: the language models that are ready; the context and an adapter's base are told as vLLM does."""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from hanbit.server.frontends.openai.endpoint import Models, find
from hanbit.server.language_model import LanguageModel


async def list_models(models: Models, request: Request) -> Response:
    found = models.language_models()
    return JSONResponse({"object": "list", "data": [_described(model, found) for model in found.values()]})


async def show_model(models: Models, request: Request) -> Response:
    model = find(models, request.path_params["model"])
    return JSONResponse(_described(model, models.language_models()))


def _described(model: LanguageModel, found: dict[str, LanguageModel]) -> dict[str, Any]:
    bases = [one.name for one in found.values() if one.service is model.service and one.adapter is None]
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "hanbit",
        "max_model_len": model.service.llm.context,
        "parent": next(iter(bases), None) if model.adapter is not None else None,
    }

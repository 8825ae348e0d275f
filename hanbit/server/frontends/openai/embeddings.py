"""`/v1/embeddings`: texts or token ids to vectors."""

import base64

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from hanbit.common.errors import EngineBusy, GenerationError
from hanbit.server.frontends.body import read_body
from hanbit.server.frontends.listening import unless_gone
from hanbit.server.frontends.openai.endpoint import Models, find_embedder
from hanbit.server.frontends.openai.errors import Refusal
from hanbit.server.frontends.openai.parse import parse
from hanbit.server.frontends.openai.requests import MOST_INPUTS, EmbeddingRequest


async def embed(models: Models, request: Request) -> Response:
    asked = parse(EmbeddingRequest, await read_body(request))
    model = find_embedder(models, asked.model)
    embedder = model.service.embedder
    if len(asked.input) > MOST_INPUTS:
        raise Refusal(f"{len(asked.input)} texts are more than {MOST_INPUTS}: ask in parts", "input", "invalid_value")
    if asked.dimensions not in (None, embedder.width):
        rule = f"a vector of {model.name!r} has {embedder.width} numbers, and it was not trained for fewer"
        raise Refusal(f"dimensions={asked.dimensions!s:.40}: {rule}. Leave it out", "dimensions", "invalid_value")
    most = embedder.context if asked.truncate_prompt_tokens == -1 else asked.truncate_prompt_tokens
    try:
        made = await unless_gone(request.receive, model.embed(asked.input, asked.normalize, most))
    except EngineBusy:
        raise
    except GenerationError as problem:
        field = "truncate_prompt_tokens" if str(problem).startswith("truncate_prompt_tokens") else "input"
        raise Refusal(str(problem), field, "invalid_value") from None
    vectors = made.vectors.numpy()
    if asked.encoding_format == "base64":
        told = [base64.b64encode(vector.astype("<f4").tobytes()).decode() for vector in vectors]
    else:
        told = vectors.tolist()
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(told)]
    usage = {"prompt_tokens": made.num_tokens, "total_tokens": made.num_tokens}
    return JSONResponse({"object": "list", "data": data, "model": asked.model, "usage": usage})

"""`/tokenize` and `/detokenize`, as vLLM has them: what a text costs, and what ids say."""

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from hanbit.engine.embedder import Embedder
from hanbit.engine.llm import LLM
from hanbit.server.frontends.body import read_body
from hanbit.server.frontends.openai.chat import prompt_of
from hanbit.server.frontends.openai.endpoint import Models, find
from hanbit.server.frontends.openai.errors import Refusal
from hanbit.server.frontends.openai.parse import parse
from hanbit.server.frontends.openai.requests import DetokenizeRequest, TokenizeRequest


async def tokenize(models: Models, request: Request) -> Response:
    asked = parse(TokenizeRequest, await read_body(request))
    if (asked.prompt is None) != bool(asked.messages):
        raise Refusal("give either prompt or messages", "prompt", "invalid_value")
    if (embedding := models.embedding_models().get(asked.model)) is not None:
        return await _tokenized_text(embedding.service.embedder, asked)
    llm = find(models, asked.model).service.llm
    tokens = await run_in_threadpool(_encoded, llm, asked)
    return JSONResponse({"tokens": tokens, "count": len(tokens), "max_model_len": llm.context})


async def _tokenized_text(embedder: Embedder, asked: TokenizeRequest) -> Response:
    if asked.prompt is None:
        raise Refusal("a model of embeddings reads texts: give prompt, not messages", "messages", "invalid_value")
    tokens = await run_in_threadpool(embedder.tokenizer.encode, asked.prompt, asked.add_special_tokens)
    return JSONResponse({"tokens": tokens, "count": len(tokens), "max_model_len": embedder.context})


async def detokenize(models: Models, request: Request) -> Response:
    asked = parse(DetokenizeRequest, await read_body(request))
    embedding = models.embedding_models().get(asked.model)
    speaker = find(models, asked.model).service.llm if embedding is None else embedding.service.embedder
    tokenizer = speaker.tokenizer
    wrong = next((token for token in asked.tokens if not 0 <= token < tokenizer.vocabulary_size), None)
    if wrong is not None:
        size = tokenizer.vocabulary_size
        raise Refusal(f"token {wrong!s:.40} is outside the vocabulary of {size}", "tokens", "invalid_value")
    return JSONResponse({"prompt": await run_in_threadpool(tokenizer.decode, asked.tokens)})


def _encoded(llm: LLM, asked: TokenizeRequest) -> list[int]:
    if asked.prompt is None:
        return prompt_of(llm, asked.messages)
    return llm.tokenizer.encode(asked.prompt, asked.add_special_tokens)

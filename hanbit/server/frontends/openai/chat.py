"""`/v1/chat/completions`: the assistant's next message, by the model's own chat template."""

from collections.abc import Sequence
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from hanbit.common.errors import HanbitError
from hanbit.engine.llm import LLM
from hanbit.engine.output import Piece
from hanbit.server.frontends.body import read_body
from hanbit.server.frontends.openai import logprobs
from hanbit.server.frontends.openai.answers import begin, sampling
from hanbit.server.frontends.openai.endpoint import Models, find
from hanbit.server.frontends.openai.errors import Refusal
from hanbit.server.frontends.openai.parse import parse
from hanbit.server.frontends.openai.requests import ChatRequest, Message
from hanbit.server.frontends.openai.respond import respond
from hanbit.tokenizers.tokenizer import Tokenizer


async def chat(models: Models, request: Request) -> Response:
    asked = parse(ChatRequest, await read_body(request))
    model = find(models, asked.model)
    llm = model.service.llm
    max_tokens = asked.max_completion_tokens if asked.max_tokens is None else asked.max_tokens
    params = sampling(asked, llm.defaults.sampling, max_tokens, _num_logprobs(asked))
    prompt = await run_in_threadpool(prompt_of, llm, asked.messages)
    answers = await begin(model, asked, [prompt], params, "messages")
    return await respond(request, asked, answers, Chat(llm.tokenizer))


def prompt_of(llm: LLM, messages: Sequence[Message]) -> list[int]:
    """Token ids of a conversation. Raises Refusal where the model has no template, or its template refuses."""
    said = [message.model_dump(exclude_none=True) for message in messages]
    for message in said:
        if message["role"] == "developer":
            message["role"] = "system"  # the name that templates know
    try:
        return llm.chat_prompt(said)
    except HanbitError as problem:
        raise Refusal(str(problem), "messages", "invalid_value") from None


def _num_logprobs(asked: ChatRequest) -> int | None:
    if asked.top_logprobs is not None and not asked.logprobs:
        raise Refusal("top_logprobs needs logprobs to be true", "top_logprobs", "invalid_value")
    return (asked.top_logprobs or 0) if asked.logprobs else None


class Chat:
    """One request's choices."""

    prefix = "chatcmpl"
    object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def opening(self, choice: int) -> dict[str, Any]:
        return _choice(choice, "delta", {"role": "assistant", "content": ""}, None, None)

    def step(self, choice: int, piece: Piece) -> dict[str, Any] | None:
        if not (piece.text or piece.finish_reason or piece.logprobs):
            return None
        delta = {"content": piece.text} if piece.text else {}
        return _choice(choice, "delta", delta, self._logprobs([piece]), piece.finish_reason)

    def whole(self, choice: int, pieces: Sequence[Piece]) -> dict[str, Any]:
        message = {"role": "assistant", "content": "".join(piece.text for piece in pieces)}
        return _choice(choice, "message", message, self._logprobs(pieces), pieces[-1].finish_reason)

    def _logprobs(self, pieces: Sequence[Piece]) -> dict[str, Any] | None:
        told = [one for piece in pieces for one in piece.logprobs]
        return logprobs.of_chat(self._tokenizer, told) if told else None


def _choice(
    choice: int, name: str, said: dict[str, str], told: dict[str, Any] | None, finish_reason: str | None
) -> dict[str, Any]:
    return {"index": choice, name: said, "logprobs": told, "finish_reason": finish_reason}

"""`/v1/chat/completions`: the assistant's next message, by the model's own chat template."""

from collections.abc import Mapping, Sequence
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
from hanbit.server.frontends.openai.tools import Calling, ToolUse, joined, tools_of
from hanbit.tokenizers.tokenizer import Tokenizer
from hanbit.tokenizers.tools import knows_tools, told


async def chat(models: Models, request: Request) -> Response:
    asked = parse(ChatRequest, await read_body(request))
    model = find(models, asked.model)
    llm = model.service.llm
    max_tokens = asked.max_completion_tokens if asked.max_tokens is None else asked.max_tokens
    use = tools_of(asked, llm.tokenizer)
    calls = None if use is None else use.form
    params = sampling(asked, llm.defaults.sampling, max_tokens, _num_logprobs(asked), calls=calls)
    prompt = await run_in_threadpool(prompt_of, llm, asked.messages, () if use is None else use.described())
    answers = await begin(model, asked, [prompt], params, "messages")
    return await respond(request, asked, answers, Chat(llm.tokenizer, use))


def prompt_of(llm: LLM, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
    """Token ids of a conversation. Raises Refusal where the model has no template, or its template refuses."""
    template = llm.tokenizer.chat_template
    said = [message.model_dump(exclude_none=True) for message in messages]
    for message in said:
        if message["role"] == "developer":
            message["role"] = "system"  # the name that templates know
    try:
        return llm.chat_prompt(told(said, tools, template), tools=tools if tools and knows_tools(template) else None)
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

    def __init__(self, tokenizer: Tokenizer, tools: ToolUse | None = None) -> None:
        self._tokenizer, self._tools = tokenizer, tools
        self._calling: dict[int, Calling] = {}  # by choice

    def opening(self, choice: int) -> dict[str, Any]:
        return _choice(choice, "delta", {"role": "assistant", "content": ""}, None, None)

    def step(self, choice: int, piece: Piece) -> dict[str, Any] | None:
        delta, reason = self._delta(choice, piece)
        if not (delta or reason or piece.logprobs):
            return None
        return _choice(choice, "delta", delta, self._logprobs([piece]), reason)

    def whole(self, choice: int, pieces: Sequence[Piece]) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant"}
        reason: str | None = pieces[-1].finish_reason
        if self._tools is None:
            message["content"] = "".join(piece.text for piece in pieces)
        else:
            calling = Calling(self._tools, self._tokenizer)
            message |= joined([calling.delta(piece) for piece in pieces])
            reason = calling.finish_reason(pieces[-1])
        return _choice(choice, "message", message, self._logprobs(pieces), reason)

    def _delta(self, choice: int, piece: Piece) -> tuple[dict[str, Any], str | None]:
        if self._tools is None:
            return {"content": piece.text} if piece.text else {}, piece.finish_reason
        if choice not in self._calling:
            self._calling[choice] = Calling(self._tools, self._tokenizer)
        calling = self._calling[choice]
        return calling.delta(piece), calling.finish_reason(piece)

    def _logprobs(self, pieces: Sequence[Piece]) -> dict[str, Any] | None:
        told = [one for piece in pieces for one in piece.logprobs]
        return logprobs.of_chat(self._tokenizer, told) if told else None


def _choice(
    choice: int, name: str, said: dict[str, Any], told: dict[str, Any] | None, finish_reason: str | None
) -> dict[str, Any]:
    return {"index": choice, name: said, "logprobs": told, "finish_reason": finish_reason}

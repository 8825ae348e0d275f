"""`/v1/completions`: prompts are continued, as they are."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from hanbit.engine.output import Piece
from hanbit.engine.service import Turn
from hanbit.server.frontends.body import read_body
from hanbit.server.frontends.openai import logprobs
from hanbit.server.frontends.openai.answers import begin, sampling
from hanbit.server.frontends.openai.endpoint import Models, find
from hanbit.server.frontends.openai.errors import Refusal
from hanbit.server.frontends.openai.parse import parse
from hanbit.server.frontends.openai.requests import CompletionRequest
from hanbit.server.frontends.openai.respond import respond
from hanbit.tokenizers.tokenizer import Tokenizer


async def complete(models: Models, request: Request) -> Response:
    asked = parse(CompletionRequest, await read_body(request))
    model = find(models, asked.model)
    llm = model.service.llm
    if asked.max_tokens == 0 and not asked.echo:
        raise Refusal("max_tokens=0 asks for nothing without echo", "max_tokens", "invalid_value")
    if asked.stream and asked.best_of not in (None, asked.n) and not asked.use_beam_search:
        raise Refusal("the best of several answers are known when all are over: leave out stream or best_of", "best_of")
    turn = _turn(asked)
    echoed = asked.logprobs or 0 if asked.echo and (asked.logprobs is not None or asked.max_tokens == 0) else None
    params = sampling(
        asked, llm.defaults.sampling, asked.max_tokens, asked.logprobs, asked.best_of, echoed, is_turn=turn is not None
    )
    prompts = await run_in_threadpool(_encoded, llm.tokenizer, asked)
    answers = await begin(model, asked, prompts, params, "prompt", turn)
    return await respond(request, asked, answers, Completion(asked, prompts, llm.tokenizer))


def _encoded(tokenizer: Tokenizer, asked: CompletionRequest) -> list[list[int]]:
    """A later turn of a session stands in the midst of a text."""
    begins = asked.session_id is None or asked.session_start
    return [
        tokenizer.encode(prompt, add_special_tokens=begins) if isinstance(prompt, str) else prompt
        for prompt in asked.prompt
    ]


def _turn(asked: CompletionRequest) -> Turn | None:
    """Raises Refusal for what cannot be continued in one way."""
    if asked.session_id is None:
        if asked.session_start or asked.session_end:
            raise Refusal("session_start and session_end belong to a session_id, and there is none", "session_id")
        return None
    several = {"prompt": len(asked.prompt), "n": asked.n, "best_of": asked.best_of or 1, "num_beams": asked.num_beams}
    for name, count in several.items():
        if count > 1:
            raise Refusal(f"{name} of {count} beside session_id: a session goes on in one way", name)
    if asked.echo or asked.use_beam_search:
        name = "echo" if asked.echo else "use_beam_search"
        raise Refusal(f"{name} beside session_id is not offered: leave it out", name)
    return Turn(asked.session_id, asked.session_start, asked.session_end)


class Completion:
    """One request's choices."""

    prefix = "cmpl"
    object = chunk_object = "text_completion"

    def __init__(self, asked: CompletionRequest, prompts: Sequence[list[int]], tokenizer: Tokenizer) -> None:
        self._asked, self._prompts, self._tokenizer = asked, prompts, tokenizer
        self._told: Counter[int] = Counter()  # characters of tokens whose likelihood was told, by choice

    def opening(self, choice: int) -> dict[str, Any] | None:
        """The echo, unless the likelihoods of its tokens are told: they are known with the first piece."""
        is_told = self._asked.logprobs is not None
        return _choice(choice, self._echo(choice), None, None) if self._asked.echo and not is_told else None

    def step(self, choice: int, piece: Piece) -> dict[str, Any] | None:
        if not (piece.text or piece.finish_reason or piece.logprobs):
            return None
        echo = self._echo(choice) if piece.prompt_logprobs and self._asked.logprobs is not None else ""
        return _choice(choice, echo + piece.text, self._logprobs(choice, [piece]), piece.finish_reason)

    def whole(self, choice: int, pieces: Sequence[Piece]) -> dict[str, Any]:
        text = self._echo(choice) + "".join(piece.text for piece in pieces)
        return _choice(choice, text, self._logprobs(choice, pieces), pieces[-1].finish_reason)

    def _echo(self, choice: int) -> str:
        if not self._asked.echo:
            return ""
        prompt = self._asked.prompt[choice // self._asked.n]
        return prompt if isinstance(prompt, str) else self._tokenizer.decode(prompt)

    def _logprobs(self, choice: int, pieces: Sequence[Piece]) -> dict[str, Any] | None:
        if self._asked.logprobs is None:
            return None
        told = [one for piece in pieces for one in (*piece.prompt_logprobs, *piece.logprobs)]
        first = self._prompts[choice // self._asked.n][:1]
        found = logprobs.of_completion(self._tokenizer, told, self._told[choice], first)
        self._told[choice] += sum(map(len, found["tokens"]))
        return found


def _choice(choice: int, text: str, told: dict[str, Any] | None, finish_reason: str | None) -> dict[str, Any]:
    return {"index": choice, "text": text, "logprobs": told, "finish_reason": finish_reason}

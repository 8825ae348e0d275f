"""The engine's answers to one request: checked and begun together, heard as they come, ended together."""

import asyncio
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from hanbit.common.errors import EngineBusy, EngineClosed, GenerationError, GrammarError
from hanbit.engine.choices import chosen, each
from hanbit.engine.defaults import merged
from hanbit.engine.llm import LLM
from hanbit.engine.output import Piece, Usage
from hanbit.engine.sampling_params import MOST_CHOICES, SamplingParams
from hanbit.engine.service import Turn
from hanbit.engine.structured_outputs import StructuredOutputs
from hanbit.engine.tool_grammar import ToolCalls
from hanbit.server.frontends.openai.errors import Refusal
from hanbit.server.frontends.openai.forms import form_field, form_of, refused
from hanbit.server.frontends.openai.requests import Answering
from hanbit.server.language_model import CountedAnswer, LanguageModel

_SAME_NAME = (
    "top_p_decay",
    "top_p_min",
    "top_p_reset_ids",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "min_tokens",
    "stop",
    "ignore_eos",
    "n",
)
_FIELDS = {field.name for field in fields(SamplingParams)}
# Where the request has none: as the model's makers would have it
_MAKERS = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "bad_words",
    "num_beams",
    "length_penalty",
    "early_stopping",
)


def sampling(
    asked: Answering,
    makers: Mapping[str, Any],
    max_tokens: int | None,
    logprobs: int | None,
    best_of: int | None = None,
    prompt_logprobs: int | None = None,
    calls: ToolCalls | None = None,
    *,
    is_turn: bool = False,
) -> SamplingParams:
    """`makers`: what the model's makers recommend; OpenAI's temperature, 1, where they are silent. `calls`: of tools,
    which give the answer its form. `is_turn`: of a session. Raises Refusal."""
    names = (*_SAME_NAME, *(name for name in _MAKERS if name in asked.model_fields_set))
    given = {name: getattr(asked, name) for name in names}
    given |= {"seed": None if asked.seed is None else asked.seed % 2**63, "prompt_logprobs": prompt_logprobs}
    if asked.use_beam_search:  # vLLM's switch: as many beams as answers are to be given or made
        given["num_beams"] = max(asked.num_beams, best_of or asked.n)
    else:
        given["best_of"] = best_of
    given = {name: value for name, value in given.items() if value is not None}
    keywords = merged({"temperature": 1.0, **makers}, given, in_one_way=is_turn)
    form = form_of(asked) if calls is None else StructuredOutputs(tool_calls=calls)
    try:
        return SamplingParams(**keywords, max_tokens=max_tokens, logprobs=logprobs, structured_outputs=form)
    except GenerationError as problem:  # its messages begin with name=value
        raise Refusal(str(problem), param=str(problem).partition("=")[0], code="invalid_value") from None


class Answers:
    """Choices 0 to n-1 answer the first prompt, the next n the second, and so on; while they are being made, best_of
    instead of n.

    Iterating gives (choice, piece) in the order in which they come, `given` all of what the client gets; `close` ends
    the work on all that are not over.
    """

    def __init__(self, params: SamplingParams) -> None:
        self._params = params
        self._streams_each = len(each(params))  # for each prompt
        self._made = params.n if params.num_beams > 1 else self._streams_each
        self._streams: list[CountedAnswer] = []
        self._usages: dict[int, Usage] = {}

    def add(self, stream: CountedAnswer) -> None:
        self._streams.append(stream)

    def __len__(self) -> int:
        return len(self._streams) * self._made // self._streams_each

    async def close(self) -> None:
        for stream in self._streams:
            await stream.aclose()

    async def __aiter__(self) -> AsyncGenerator[tuple[int, Piece], None]:
        pieces = self._in_turn() if len(self._streams) == 1 else self._together()
        async for stream, piece in pieces:
            choice = stream * self._made // self._streams_each
            if piece.usage is not None:
                self._usages[choice] = piece.usage
            for index, one in enumerate((piece, *piece.others)):
                yield choice + index, one

    async def given(self) -> list[list[Piece]]:
        """The pieces of each choice, once all are over."""
        pieces: list[list[Piece]] = [[] for _ in range(len(self))]
        async for choice, piece in self:
            pieces[choice].append(piece)
        found = []
        for start in range(0, len(pieces), self._made):
            made = pieces[start : start + self._made]
            told = [[one for piece in answer for one in piece.logprobs] for answer in made]
            found += [made[place] for place in chosen(self._params, told)]
        return found

    def usage(self) -> dict[str, int]:
        """Of all that are over, given or not; a prompt counts once, however many answer it."""
        prompt = sum(usage.prompt_tokens for choice, usage in self._usages.items() if choice % self._made == 0)
        completion = sum(usage.completion_tokens for usage in self._usages.values())
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}

    async def _in_turn(self) -> AsyncGenerator[tuple[int, Piece], None]:
        async for piece in self._streams[0]:
            yield 0, piece

    async def _together(self) -> AsyncGenerator[tuple[int, Piece], None]:
        arrived: asyncio.Queue[tuple[int, Piece | Exception]] = asyncio.Queue(len(self._streams))
        tasks = [asyncio.create_task(_hear(choice, stream, arrived)) for choice, stream in enumerate(self._streams)]
        try:
            open_choices = len(tasks)
            while open_choices:
                choice, piece = await arrived.get()
                if isinstance(piece, Exception):
                    raise piece
                open_choices -= piece.finish_reason is not None
                yield choice, piece
        finally:
            for task in tasks:
                task.cancel()


async def _hear(choice: int, stream: CountedAnswer, arrived: "asyncio.Queue[tuple[int, Piece | Exception]]") -> None:
    try:
        async for piece in stream:
            await arrived.put((choice, piece))
    except Exception as problem:
        await arrived.put((choice, problem))


async def begin(
    model: LanguageModel,
    asked: Answering,
    prompts: Sequence[Sequence[int]],
    params: SamplingParams,
    param: str,
    turn: Turn | None = None,
) -> Answers:
    """`param`: the field that the prompts came from, for errors; `turn`: of which session the only one is. Either all
    are begun or none."""
    made = each(params)
    if len(prompts) * len(made) > MOST_CHOICES:
        raise Refusal(
            f"{len(prompts)} prompts with {len(made)} answers each are more than {MOST_CHOICES}: ask in parts", "n"
        )
    _check_lengths(prompts, model.service.llm, params.max_tokens, param)
    try:
        await model.service.prepare(params)
    except GrammarError as problem:
        raise refused(problem, form_field(asked) or "tools") from None
    answers = Answers(params)
    try:
        for prompt in prompts:
            for one in made:
                answers.add(model.stream(prompt, one, asked.priority, turn))
    except (EngineBusy, EngineClosed):
        await answers.close()
        raise
    except GenerationError as problem:
        await answers.close()
        first = re.match(r"\w*", str(problem))  # the engine's messages begin with what is at fault
        name = first.group() if first is not None and first.group() in _FIELDS else param
        raise Refusal(str(problem), name, "invalid_value") from None
    return answers


def _check_lengths(prompts: Sequence[Sequence[int]], llm: LLM, max_tokens: int | None, param: str) -> None:
    """The engine has the same rule; clients want its code, and many a long prompt is not worth the engine's time."""
    most = llm.context - (max_tokens != 0 and not llm.reads_apart)
    for prompt in prompts:
        if len(prompt) > most:
            included = "" if llm.reads_apart else ", the answer included"
            raise Refusal(
                f"{param} has {len(prompt)} tokens and the model's context holds {llm.context}{included}. "
                f"Shorten it by at least {len(prompt) - most}",
                param,
                "context_length_exceeded",
            )

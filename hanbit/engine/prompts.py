"""From a prompt and what is asked of its answer to a sequence that can be answered: what is wrong is said here, before
anything is read."""

import logging
from collections.abc import Sequence as Items
from typing import TYPE_CHECKING

from hanbit.common.errors import GenerationError
from hanbit.config.model import T5Config
from hanbit.engine.adapters import JoinedAdapter
from hanbit.engine.beams import check_width
from hanbit.engine.choices import each
from hanbit.engine.encoder_prompt import EncoderPrompt
from hanbit.engine.opening import check_ids
from hanbit.engine.parts import check_size
from hanbit.engine.sampling_params import SamplingParams
from hanbit.engine.sequence import Sequence

if TYPE_CHECKING:
    from hanbit.engine.llm import LLM

log = logging.getLogger(__name__)

Prompt = str | Items[int]  # a text, or token ids
Sampling = SamplingParams | Items[SamplingParams] | None  # for all prompts, one for each, or the model's own defaults


class Prompts:
    """Of one model."""

    def __init__(self, llm: "LLM") -> None:
        self._llm = llm

    def sequence(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        adapter: str | None = None,
        name: str = "the prompt",
        priority: int = 0,
        deadline: float | None = None,
        seats: int | None = None,
    ) -> Sequence:
        """As `LLM.sequence` says."""
        llm, params = self._llm, self.params(params, 1)[0]
        if len(each(params)) > 1:
            raise GenerationError(f"n={params.n}, best_of={params.best_of}: one sequence is one answer. Use generate")
        tokens = llm.tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)
        tokens = tokens or [self._first_token(name)]
        self._check_ids(name, tokens, params)
        apart = None
        if isinstance(llm.config, T5Config):
            start = llm.config.start_token if llm.defaults.start_id is None else llm.defaults.start_id
            apart, tokens = self._encoder_prompt(tokens, params, name), [start]
        seats = seats or llm.max_sequences
        num_blocks = llm.blocks_for(seats if params.num_beams > 1 else 1)
        max_tokens = self._most_tokens(len(tokens), params, name, num_blocks)
        found = None if adapter is None else self._adapter(adapter)
        ends = llm.defaults.end_ids
        grammar = None if params.structured_outputs is None else llm.grammars.start(params.structured_outputs)
        made = Sequence(tokens, params, max_tokens, ends, llm.tokenizer, found, priority, deadline, grammar, apart)
        if params.num_beams > 1:
            check_width(made, num_blocks, llm.block_size, seats)
        return made

    def _check_ids(self, name: str, tokens: list[int], params: SamplingParams) -> None:
        config = self._llm.config
        check_ids(name, tokens, config)
        check_ids("logit_bias", list(params.logit_bias), config)
        check_ids("top_p_reset_ids", list(params.top_p_reset_ids), config)
        check_ids("bad_words", [id for word in params.bad_words if not isinstance(word, str) for id in word], config)

    def _most_tokens(self, length: int, params: SamplingParams, name: str, num_blocks: int) -> int:
        """Of the answer to a prompt of so many tokens: what is asked for, as far as the context goes."""
        llm, least = self._llm, int(params.max_tokens != 0)
        room = llm.context - length
        if room < least:
            raise GenerationError(
                f"{name} has {length} tokens and the model's context holds {llm.context}, the answer included. "
                f"Shorten it by at least {least - room}"
            )
        share = num_blocks // params.num_beams * llm.block_size
        max_tokens = max(1, min(room, share + 1 - length)) if params.max_tokens is None else params.max_tokens
        if max_tokens > room:
            log.warning("max_tokens=%d becomes %d, what the context of %d leaves", max_tokens, room, llm.context)
        max_tokens = min(max_tokens, room)
        check_size(length + max(0, max_tokens - 1), llm.cache_tokens, name)
        return max_tokens

    def _encoder_prompt(self, tokens: list[int], params: SamplingParams, name: str) -> EncoderPrompt:
        context = self._llm.context
        if len(tokens) > context:
            raise GenerationError(
                f"{name} has {len(tokens)} tokens and the model's encoder reads {context}. Shorten it by at least "
                f"{len(tokens) - context}"
            )
        if params.prompt_logprobs is not None:
            raise GenerationError("prompt_logprobs: a t5 reads its prompt and says nothing of it. Leave it out")
        return EncoderPrompt(tokens)

    def choices(self, prompt: Prompt, params: SamplingParams, adapter: str | None, name: str) -> list[Sequence]:
        """The sequences that are made for one prompt, which is encoded once."""
        tokens = self._llm.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        return [self.sequence(tokens, one, adapter=adapter, name=name) for one in each(params)]

    def joined(self, before: Items[int], prompt: Prompt, is_first: bool) -> list[int]:
        """A later turn's tokens were made to stand in the midst of a text. Where nothing stands before them, since the
        first turn was left, they get what a text begins with, unless they have it."""
        if isinstance(prompt, str):
            return [*before, *self._llm.tokenizer.encode(prompt, add_special_tokens=not before)]
        begin = [] if before or is_first else self._llm.tokenizer.begin_ids
        has_begin = list(prompt[: len(begin)]) == begin
        return [*before, *([] if has_begin else begin), *prompt]

    def _adapter(self, name: str) -> JoinedAdapter:
        if name not in self._llm.joined_adapters:
            known = ", ".join(self._llm.joined_adapters) or "none; add_adapter(name, folder) makes one"
            raise GenerationError(f"adapter={name!r} is not here. There is: {known}")
        return self._llm.joined_adapters[name]

    def params(self, sampling: Sampling, num_prompts: int, num_answers: int = 1) -> list[SamplingParams]:
        """Without any as the model's makers would have it, who may have `num_answers`."""
        if sampling is None:
            sampling = SamplingParams(**self._llm.defaults.sampling, n=num_answers)
        if isinstance(sampling, SamplingParams):
            return [sampling] * num_prompts
        if len(sampling) != num_prompts:
            raise GenerationError(f"{len(sampling)} sampling parameters for {num_prompts} prompts. Give one for each")
        return list(sampling)

    def _first_token(self, name: str) -> int:
        """An empty prompt starts where documents start, or after one has ended."""
        for id in (self._llm.tokenizer.begin_id, self._llm.tokenizer.end_id):
            if id is not None:
                return id
        raise GenerationError(
            f"{name} is empty and {self._llm.tokenizer.source} names no begin or end token to start from. "
            "Give at least one token"
        )

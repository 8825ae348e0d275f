"""One prompt and its growing answer: its own random numbers, its text, its end. No torch."""

import copy
import random
from collections.abc import Sequence as Items
from typing import TYPE_CHECKING

import numpy as np

from hanbit.engine.bad_words import BadWords, token_ids_of
from hanbit.engine.encoder_prompt import EncoderPrompt
from hanbit.engine.grammar import Grammar
from hanbit.engine.output import FinishReason, Logprob, Output, Piece, Usage
from hanbit.engine.sampling_params import SamplingParams
from hanbit.engine.stop import StopText
from hanbit.tokenizers.stream import TextStream
from hanbit.tokenizers.tokenizer import Tokenizer

if TYPE_CHECKING:
    from hanbit.engine.adapters import JoinedAdapter
    from hanbit.engine.sessions import Session


class Sequence:
    """`max_tokens` is what the context leaves of `params.max_tokens`; `end_ids` are the model's own end tokens.

    `encoder_prompt`: what an encoder reads for it; `prompt` is where the decoder begins then.
    `priority`: smaller ones are answered first; `deadline`: on the clock of time.monotonic, when it is given up.
    """

    def __init__(
        self,
        prompt: Items[int],
        params: SamplingParams,
        max_tokens: int,
        end_ids: frozenset[int],
        tokenizer: Tokenizer,
        adapter: "JoinedAdapter | None" = None,
        priority: int = 0,
        deadline: float | None = None,
        grammar: Grammar | None = None,
        encoder_prompt: EncoderPrompt | None = None,
    ) -> None:
        self.prompt = tuple(map(int, prompt))  # of whatever kind of integer they are
        self.params = params
        self.max_tokens = max_tokens
        self.adapter = adapter
        self.priority = priority
        self.deadline = deadline
        self.grammar = grammar
        self.encoder_prompt = encoder_prompt
        self.tokens = list(self.prompt)  # and the answer behind it
        self.answer: list[int] = []
        self.finish_reason: FinishReason | None = None
        self.session: Session | None = None  # whose turn this is
        self.behind: Sequence | None = None  # the turn before, until this one is in a batch
        self._end_ids = frozenset() if params.ignore_eos else end_ids
        self._bad_words = BadWords(token_ids_of(params.bad_words, tokenizer))
        self.top_p = params.top_p  # of the next token
        self._random = random.Random(params.seed)
        self._text = TextStream(tokenizer)
        self._stop = StopText(params.stop, params.min_tokens)
        self._said: list[str] = []
        self._logprobs: list[Logprob] = []
        self._prompt_logprobs: list[Logprob | None] = [None]
        self._output: Output | None = None

    @property
    def asked(self) -> tuple[int, ...]:
        """The tokens that the answer is to."""
        return self.prompt if self.encoder_prompt is None else self.encoder_prompt.tokens

    @property
    def longest(self) -> int:
        """Tokens it may have in the cache at most; the last token of an answer is never fed."""
        return len(self.prompt) + max(0, self.max_tokens - 1)

    @property
    def reads_all(self) -> bool:
        """The likelihoods of its prompt are wanted, and some are not known yet: nothing of it may be taken over."""
        return self.params.prompt_logprobs is not None and len(self._prompt_logprobs) < len(self.prompt)

    @property
    def num_read_apart(self) -> int:
        """Tokens that an encoder reads."""
        return 0 if self.encoder_prompt is None else len(self.encoder_prompt.tokens)

    @property
    def root(self) -> bytes:
        """Keys and values of the same tokens differ by adapter, and by what an encoder has read."""
        own = b"" if self.adapter is None else self.adapter.root
        return own if self.encoder_prompt is None else own + self.encoder_prompt.root

    @property
    def num_ends(self) -> int:
        """Tokens that end it."""
        return len(self._end_ids)

    def uniform(self) -> float:
        """The next random number of this sequence alone; greedy answers use none."""
        return 0.0 if self.params.is_greedy else self._random.random()

    def forbidden_ids(self, allowed: np.ndarray | None = None) -> set[int]:
        """Tokens that must not be chosen next: the end, before `min_tokens`; what would complete a bad word.

        `allowed`: what the answer's form allows; where that is the end alone, it is not forbidden.
        """
        found = self._bad_words.after(self.tokens)
        if len(self.answer) >= self.params.min_tokens:
            return found
        ends = list(self._end_ids)
        is_over = allowed is not None and allowed.sum() == allowed[ends].sum()
        return found if is_over else found | self._end_ids

    def read(self, start: int, logprobs: Items[Logprob]) -> None:
        """Take how likely the prompt's tokens behind places start, start + 1, .. were; known ones may come again."""
        self._prompt_logprobs += logprobs[len(self._prompt_logprobs) - 1 - start :]

    def end(self) -> Piece:
        """The only piece where nothing but the prompt's likelihoods is wanted."""
        self.finish_reason = "length"
        return Piece("", (), "length", Usage(len(self.asked), 0), (), (), self._prompt())

    def _prompt(self) -> tuple[Logprob | None, ...]:
        return () if self.params.prompt_logprobs is None else tuple(self._prompt_logprobs)

    def accept(self, token: int, logprobs: tuple[Logprob, ...] = ()) -> Piece:
        """Take a chosen token: what can be said now, and whether this was the end."""
        self.answer.append(token)
        self.tokens.append(token)
        self._logprobs += logprobs
        self.top_p = self.params.next_top_p(self.top_p, token)
        text = self._stop.push(self._text.push(token))
        if self.grammar is not None:
            self.grammar.accept(token)
        if self._stop.is_stopped or token in self._end_ids or (self.grammar is not None and self.grammar.is_complete):
            self.finish_reason = "stop"
        elif len(self.answer) >= self.max_tokens:
            self.finish_reason = "length"
        if self.finish_reason is not None and not self._stop.is_stopped:
            text += self._rest()
        self._said.append(text)
        usage = None if self.finish_reason is None else Usage(len(self.asked), len(self.answer))
        prompt = self._prompt() if len(self.answer) == 1 else ()
        return Piece(text, (token,), self.finish_reason, usage, logprobs, (), prompt)

    def fork(self) -> "Sequence":
        """Another one that is where this one is; they go on apart."""
        other = copy.copy(self)
        other.tokens, other.answer = list(self.tokens), list(self.answer)
        other._said, other._logprobs = list(self._said), list(self._logprobs)
        other._text, other._stop = self._text.copy(), self._stop.copy()
        other.grammar = None if self.grammar is None else self.grammar.copy()
        return other

    def become(self, other: "Sequence", output: Output) -> None:
        """End with the answer of a fork."""
        self.tokens, self.answer, self.finish_reason, self._output = (
            other.tokens,
            other.answer,
            other.finish_reason,
            output,
        )

    def output(self, score: float | None = None) -> Output:
        assert self.finish_reason is not None, "the answer has not ended"
        if self._output is not None:
            return self._output
        said, logprobs = "".join(self._said), tuple(self._logprobs)
        return Output(said, tuple(self.answer), self.asked, self.finish_reason, logprobs, (), score, self._prompt())

    def _rest(self) -> str:
        """Half a character that is never completed may itself complete a stop text."""
        text = self._stop.push(self._text.finish())
        if self._stop.is_stopped:
            self.finish_reason = "stop"
        return text + self._stop.finish()

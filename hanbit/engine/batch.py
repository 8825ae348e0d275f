"""Answer many prompts together: prompts are read in parts, answers grow by one token a step, anyone joins or leaves.

Rows of the cache stay packed at the front, so that a step works on living sequences only: those that answer have the
first rows, the one whose prompt is being read the row after them. A row that falls free goes to the next that waits.
"""

from collections import deque

import torch

from hanbit.common.errors import GenerationError
from hanbit.engine.native import largest
from hanbit.engine.output import Piece
from hanbit.engine.runner import Runner
from hanbit.engine.sampling import adjusted, choose, logprob_of
from hanbit.engine.sequence import Sequence

# Tokens of prompts fed at once: bounds the memory of a long prompt and keeps matrices large enough for full speed.
PREFILL_TOKENS = 1024

Event = tuple[Sequence, Piece | GenerationError]  # the error is the sequence's last event


class Batch:
    """`patience`: tokens of prompts that are read at most while others wait for their next token.

    Not safe between threads. What goes wrong in a step is an event of the sequences that were in it; the others go on.
    """

    def __init__(self, runner: Runner, patience: int = PREFILL_TOKENS) -> None:
        self._runner = runner
        self._patience = patience
        self._waiting: deque[Sequence] = deque()
        self._answering: list[Sequence] = []  # by row
        self._reading: Sequence | None = None  # in the row after them
        self._num_read = 0
        self._has_read = False  # in the last step

    @property
    def num_running(self) -> int:
        """Sequences that have a row."""
        return len(self._answering) + (self._reading is not None)

    @property
    def is_empty(self) -> bool:
        return not (self._waiting or self._answering or self._reading)

    def add(self, sequence: Sequence) -> None:
        """It waits for a row. Its `longest` must fit the runner's capacity."""
        assert sequence.longest <= self._runner.cache.capacity
        self._waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget an answer that has not ended, wherever it stands; nothing if it is not here."""
        if sequence is self._reading:
            self._runner.cache.spoil(len(self._answering))
            self._reading = None
        elif sequence in self._answering:
            row = self._answering.index(sequence)
            self._runner.cache.spoil(row)
            self._free(row)
        elif sequence in self._waiting:
            self._waiting.remove(sequence)

    def step(self) -> list[Event]:
        """One part of the prompts, or one token of every answer, in turn; what came of it."""
        has_row = len(self._answering) < self._runner.cache.rows
        can_read = self._reading is not None or (bool(self._waiting) and has_row)
        self._has_read = can_read and not (self._has_read and self._answering)
        return self._read() if self._has_read else self._grow() if self._answering else []

    def _read(self) -> list[Event]:
        """Prompts in the order they came, until this step's share of tokens is read."""
        left = self._patience if self._answering else PREFILL_TOKENS
        events: list[Event] = []
        while left > 0 and (sequence := self._next_to_read()) is not None:
            start, self._num_read = self._num_read, min(self._num_read + left, len(sequence.prompt))
            left -= self._num_read - start
            try:
                logits = self._runner.prefill(
                    len(self._answering), sequence.prompt, start, self._num_read, sequence.adapter
                )
            except Exception as problem:
                events += self._settled([(sequence, _failure(problem))])
                continue
            if logits is not None:
                self._reading = None
                self._answering.append(sequence)
                events += self._settled([(sequence, _taken(sequence, logits))])
        return events

    def _next_to_read(self) -> Sequence | None:
        if self._reading is None and self._waiting and len(self._answering) < self._runner.cache.rows:
            self._reading, self._num_read = self._waiting.popleft(), 0
        return self._reading

    def _grow(self) -> list[Event]:
        answering = tuple(self._answering)
        try:
            logits = self._runner.decode(
                [one.answer[-1] for one in answering],
                [one.last_position for one in answering],
                [one.adapter for one in answering],
            )
        except Exception as problem:
            return self._settled([(one, _failure(problem)) for one in answering])
        return self._settled([(one, _taken(one, row)) for one, row in zip(answering, logits, strict=True)])

    def _settled(self, events: list[Event]) -> list[Event]:
        """The same events, after those that ended have left."""
        for sequence, event in events:
            if isinstance(event, GenerationError):
                self.remove(sequence)
            elif event.finish_reason is not None:
                self._free(self._answering.index(sequence))
        return events

    def _free(self, row: int) -> None:
        """The last answer moves into the hole, and the one being read moves up."""
        last = self._answering.pop()
        end = len(self._answering)
        if row < end:
            self._runner.cache.move(end, row, last.last_position)
            self._answering[row] = last
        if self._reading is not None:
            self._runner.cache.move(end + 1, end, self._num_read)


def _taken(sequence: Sequence, logits: torch.Tensor) -> Piece | GenerationError:
    if largest(logits) is None:
        return GenerationError(
            f"the model's logits after {sequence.last_position + 1} tokens are not numbers: its weights are damaged, "
            "or the dtype is too narrow for it. Check the folder, or use dtype float32"
        )
    params = sequence.params
    allowed = adjusted(logits, params, sequence.answer, sequence.forbidden_ids, sequence.prompt)
    token = choose(allowed, params, sequence.uniform())
    logprobs = () if params.logprobs is None else (logprob_of(logits, token, params.logprobs),)
    return sequence.accept(token, logprobs)


def _failure(problem: Exception) -> GenerationError:
    error = GenerationError(f"the engine failed in this answer's step: {type(problem).__name__}: {problem}")
    error.__cause__ = problem
    return error

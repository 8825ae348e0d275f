"""Answer many prompts together: a step feeds what the scheduler says, and every answer that can grow gets a token.

Anyone joins or leaves between steps. What goes wrong in a step ends the sequences that it goes wrong for; the others
go on.
"""

from collections import Counter
from dataclasses import dataclass

import torch

from hanbit.common.errors import DeadlinePassed, GenerationError
from hanbit.engine.beams import Beams, check_width
from hanbit.engine.blocks import Blocks
from hanbit.engine.native import largest
from hanbit.engine.output import Piece
from hanbit.engine.runner import Runner
from hanbit.engine.sampling import adjusted, choose, logprob_of, logprobs_of
from hanbit.engine.scheduler import Limits, Part, Scheduler
from hanbit.engine.sequence import Sequence

Event = tuple[Sequence, Piece | GenerationError]  # the error is the sequence's last event


@dataclass(frozen=True)
class CacheCounts:
    """Blocks of the cache that sequences have now, and totals since the start: sequences that gave theirs up for a
    while, tokens that were to be read (prompts, and what was read anew), and those of them that were found."""

    blocks: int = 0
    blocks_used: int = 0
    preempted: int = 0
    read_tokens: int = 0
    cached_tokens: int = 0


class Batch:
    """Not safe between threads. `shares`: prompts with the same beginning share what was computed of it."""

    def __init__(self, runner: Runner, limits: Limits, shares: bool = True) -> None:
        self._runner = runner
        cache = runner.cache
        self._searches: dict[Sequence, Beams] = {}  # by each of their beams
        self._scheduler: Scheduler[Sequence] = Scheduler(Blocks(cache.num_blocks, cache.block_size), limits, shares)

    @property
    def num_running(self) -> int:
        """Sequences that have blocks."""
        return self._scheduler.num_running

    @property
    def is_empty(self) -> bool:
        return self._scheduler.num_running + self._scheduler.num_waiting == 0

    @property
    def cache_counts(self) -> CacheCounts:
        blocks, counts = self._scheduler.blocks, self._scheduler.counts
        return CacheCounts(
            blocks.num_blocks, blocks.num_used, counts.preempted, counts.read_tokens, counts.cached_tokens
        )

    def add(self, sequence: Sequence) -> None:
        """It waits for its turn. Raises GenerationError if it is larger than the whole cache."""
        if sequence.params.num_beams > 1:
            blocks = self._scheduler.blocks
            check_width(sequence, blocks.num_blocks, blocks.block_size, self._scheduler.limits.sequences)
            self._searches[sequence] = Beams(sequence)
        self._scheduler.add(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget an answer that has not ended, wherever it stands; nothing if it is not here."""
        self._leave(sequence)

    def step(self) -> list[Event]:
        """One more token of every answer, and parts of prompts; what came of it."""
        late: list[Event] = [(sequence, _late(sequence)) for sequence in self._heads(self._scheduler.late())]
        for sequence, _ in late:
            self.remove(sequence)
        parts = self._scheduler.plan()
        events = self._fed(parts) if parts else []
        failed = {sequence for sequence, event in events if isinstance(event, GenerationError)}
        for search in self._ready():
            if search.head not in failed and (ended := self._advanced(search)) is not None:
                events.append((search.head, ended))
        for sequence, event in events:
            if isinstance(event, GenerationError):
                self._runner.cache.clear(self._leave(sequence, spoiled=True))
            elif event.finish_reason is not None:
                self.remove(sequence)
        return late + events

    def _leave(self, sequence: Sequence, spoiled: bool = False) -> list[int]:
        """The blocks that were its own alone, with all of its beams."""
        search = next((one for one in self._searches.values() if one.head is sequence), None)
        if search is None:
            return self._scheduler.remove(sequence, spoiled)
        for beam in search.beams:
            del self._searches[beam]
        return [block for beam in search.beams for block in self._scheduler.remove(beam, spoiled)]

    def _heads(self, sequences: list[Sequence]) -> list[Sequence]:
        """Each answer once, however many beams it has."""
        heads = (self._searches[one].head if one in self._searches else one for one in sequences)
        return list(dict.fromkeys(heads))

    def _ready(self) -> list[Beams]:
        return [search for search in dict.fromkeys(self._searches.values()) if search.is_ready]

    def _advanced(self, search: Beams) -> Piece | GenerationError | None:
        """Its next beams in the places of the last ones; its result when it is over."""
        try:
            step = search.advance()
        except GenerationError as problem:
            return problem
        if step is None:
            return search.result()
        for beam in set(step.before) - set(step.parents):
            self._scheduler.remove(beam)
        left = Counter(step.parents)
        for parent, child in zip(step.parents, step.children, strict=True):
            left[parent] -= 1
            if left[parent] == 0:  # the last of its children takes its blocks over
                self._scheduler.become(parent, child)
            elif (copied := self._scheduler.fork(parent, child)) is not None:
                self._runner.cache.copy(*copied)
        for beam in step.before:
            del self._searches[beam]
        self._searches.update(dict.fromkeys(step.children, search))
        return None

    def _fed(self, parts: list[Part[Sequence]]) -> list[Event]:
        """Feed all; if that fails, each alone: feeding the same again changes nothing."""
        try:
            logits = self._runner.feed(parts)
        except Exception as problem:
            if len(parts) == 1:
                return [(self._heads([parts[0].request])[0], _failure(problem))]
            return [event for part in parts for event in self._fed([part])]
        events = []
        for part, row in zip(parts, logits, strict=True):
            event = None if row is None else self._taken(part, row)
            if not isinstance(event, GenerationError):
                self._scheduler.fed(part)
            if event is not None:
                events.append((self._heads([part.request])[0], event))
        return events

    def _taken(self, part: Part[Sequence], logits: torch.Tensor) -> Piece | GenerationError | None:
        """None for a beam, which waits for the others of its search, and for a piece of a prompt."""
        sequence = part.request
        if any(largest(row) is None for row in logits.view(-1, logits.shape[-1])):
            return GenerationError(
                f"the model's logits after {part.end} tokens are not numbers: its weights are damaged, "
                "or the dtype is too narrow for it. Check the folder, or use dtype float32"
            )
        if sequence.reads_all:
            _read(part, logits)
            logits = logits[-1]
        if part.end < len(sequence.tokens):
            return None
        if sequence.max_tokens == 0:
            return sequence.end()
        if sequence in self._searches:
            self._searches[sequence].take(sequence, logits)
            return None
        return _chosen(sequence, logits)


def _read(part: Part[Sequence], logits: torch.Tensor) -> None:
    """Logits [tokens of the part, vocabulary] say how likely the tokens behind them are."""
    sequence, count = part.request, part.request.params.prompt_logprobs
    assert count is not None
    following = sequence.prompt[part.start + 1 : part.end + 1]
    sequence.read(part.start, logprobs_of(logits, following, count))


def _chosen(sequence: Sequence, logits: torch.Tensor) -> Piece | GenerationError:
    params = sequence.params
    try:
        allowed = None if sequence.grammar is None else sequence.grammar.allowed()
    except GenerationError as problem:
        return problem
    forbidden = sequence.forbidden_ids(allowed)
    found = adjusted(logits, params, sequence.answer, forbidden, sequence.prompt, allowed)
    if found is not logits and largest(found) is None:
        return GenerationError(
            f"after {len(sequence.answer)} tokens of the answer every token of the vocabulary is forbidden, by "
            "bad_words, min_tokens and structured_outputs together. Allow some"
        )
    token = choose(found, params, sequence.uniform(), sequence.top_p)
    logprobs = () if params.logprobs is None else (logprob_of(logits, token, params.logprobs),)
    return sequence.accept(token, logprobs)


def _failure(problem: Exception) -> GenerationError:
    error = GenerationError(f"the engine failed in this answer's step: {type(problem).__name__}: {problem}")
    error.__cause__ = problem
    return error


def _late(sequence: Sequence) -> DeadlinePassed:
    return DeadlinePassed(
        f"the time for this answer is up after {len(sequence.answer)} of at most {sequence.max_tokens} tokens. "
        "Give it more, or come again when fewer ask"
    )

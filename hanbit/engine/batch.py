"""Answer many prompts together: a step feeds what the scheduler says, and every answer that can grow gets a token.

Anyone joins or leaves between steps. What goes wrong in a step ends the sequences that it goes wrong for; the others
go on.
"""

import logging
from collections import Counter
from dataclasses import dataclass

import torch

from hanbit.common.errors import DeadlinePassed, EngineFailed, GenerationError
from hanbit.engine.beams import Beams, check_width
from hanbit.engine.blocks import Blocks
from hanbit.engine.drafts import Drafts, SpeculationCounts
from hanbit.engine.native import largest
from hanbit.engine.output import Piece
from hanbit.engine.parts import Limits, Part
from hanbit.engine.runner import Runner
from hanbit.engine.sampling import adjusted, choose, logprob_of, logprobs_of
from hanbit.engine.scheduler import Scheduler
from hanbit.engine.sequence import Sequence

log = logging.getLogger(__name__)

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
    blocks_held: int = 0  # of those used, by sessions between two turns


class Batch:
    """Not safe between threads. `shares`: prompts with the same beginning share what was computed of it. `drafts`: who
    guesses what follows, if anybody does."""

    def __init__(self, runner: Runner, limits: Limits, shares: bool = True, drafts: Drafts | None = None) -> None:
        self._runner, self._drafts, self._limits, self._shares = runner, drafts, limits, shares
        cache = runner.cache
        self._searches: dict[Sequence, Beams] = {}  # by each of their beams
        self._scheduler: Scheduler[Sequence] = Scheduler(Blocks(cache.num_blocks, cache.block_size), limits, shares)

    def anew(self) -> "Batch":
        """An empty one on the same model, whose cache is cleared: for when this one cannot be relied on any more."""
        for sequence in self._scheduler.requests:
            self._runner.forget(sequence)
            if self._drafts is not None:
                self._drafts.forget(sequence)
        self._runner.cache.clear(range(self._runner.cache.num_blocks))
        return Batch(self._runner, self._limits, self._shares, self._drafts)

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
            blocks.num_blocks,
            blocks.num_used,
            counts.preempted,
            counts.read_tokens,
            counts.cached_tokens,
            self._scheduler.num_held_blocks,
        )

    @property
    def speculation_counts(self) -> SpeculationCounts:
        return SpeculationCounts() if self._drafts is None else self._drafts.counts

    def add(self, sequence: Sequence) -> None:
        """It waits for its turn. Raises GenerationError if it is larger than the whole cache."""
        if sequence.params.num_beams > 1:
            blocks = self._scheduler.blocks
            check_width(sequence, blocks.num_blocks, blocks.block_size, self._scheduler.limits.sequences)
            self._searches[sequence] = Beams(sequence)
        self._scheduler.add(sequence, sequence.behind)
        sequence.behind = None

    def let_go(self, sequence: Sequence) -> None:
        """The session whose last turn this was is over; nothing if none of its blocks are held."""
        self._scheduler.let_go(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget an answer that has not ended, wherever it stands; nothing if it is not here."""
        self._leave(sequence)

    def step(self) -> list[Event]:
        """One more token of every answer, or several where they were guessed, and parts of prompts; what came of it."""
        late: list[Event] = [(one, _late(one, self._length(one))) for one in self._heads(self._scheduler.late())]
        for sequence, _ in late:
            self.remove(sequence)
        parts = self._with_drafts(self._scheduler.plan())
        events = self._fed(parts) if parts else []
        failed = {sequence for sequence, event in events if isinstance(event, GenerationError)}
        for search in self._ready():
            if search.head not in failed and (ended := self._advanced(search)) is not None:
                events.append((search.head, ended))
        for sequence, event in events:
            if isinstance(event, GenerationError):
                self._runner.cache.clear(self._leave(sequence, spoiled=True))
            elif event.finish_reason is not None:
                self._finish(sequence)
        return late + events

    def _with_drafts(self, parts: list[Part[Sequence]]) -> list[Part[Sequence]]:
        """Guesses for answers that get their next token in this step. Not for beams, which go on in several ways."""
        if self._drafts is None:
            return parts
        growing = [
            part.request
            for part in parts
            if part.end - part.start == 1
            and part.end == len(part.request.tokens)
            and not part.request.reads_all
            and part.request not in self._searches
        ]
        return self._scheduler.lengthen(parts, self._drafts.of(growing))

    def _finish(self, sequence: Sequence) -> None:
        """A session's blocks stay, for its next turn."""
        session = sequence.session
        if session is not None:
            session.finish(sequence)
        if session is None or session.is_ended:
            self._leave(sequence)
            return
        if self._drafts is not None:
            self._drafts.forget(sequence)
        self._scheduler.hold(sequence)

    def _leave(self, sequence: Sequence, spoiled: bool = False) -> list[int]:
        """The blocks that were its own alone, with all of its beams."""
        self._runner.forget(sequence)
        if sequence.session is not None:
            sequence.session.drop(sequence)
        if self._drafts is not None:
            self._drafts.forget(sequence)
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

    def _length(self, sequence: Sequence) -> int:
        """Tokens of its answer so far."""
        search = self._searches.get(sequence)
        if search is None:
            search = next((one for one in self._searches.values() if one.head is sequence), None)
        return max(len(one.answer) for one in ((sequence,) if search is None else search.beams))

    def _ready(self) -> list[Beams]:
        return [search for search in dict.fromkeys(self._searches.values()) if search.is_ready]

    def _advanced(self, search: Beams) -> Piece | GenerationError | None:
        """Its next beams in the places of the last ones; its result when it is over."""
        try:
            step = search.advance()
        except Exception as problem:
            return problem if isinstance(problem, GenerationError) else _failure(problem)
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
        events: list[Event] = []
        for part, rows in zip(parts, logits, strict=True):
            head = self._heads([part.request])[0]
            events += [(head, event) for event in self._followed(part, rows)]
        return events

    def _followed(self, part: Part[Sequence], rows: torch.Tensor | None) -> list[Piece | GenerationError]:
        """What comes of a part that has been fed. What goes wrong with it ends its answer, and no other."""
        try:
            taken = [] if rows is None else self._taken(part, rows)
            if not (taken and isinstance(taken[-1], GenerationError)):
                self._scheduler.fed(part, self._judged(part, rows))
        except Exception as problem:
            return [_failure(problem)]
        return taken

    def _judged(self, part: Part[Sequence], rows: torch.Tensor | None) -> int:
        """How many tokens of its draft became the sequence's own."""
        if not part.draft or rows is None or self._drafts is None:
            return 0
        right = 0
        for guessed, chosen in zip(part.draft, part.request.tokens[part.end :], strict=False):
            if guessed != chosen:
                break
            right += 1
        self._drafts.judge(part.request, len(part.draft), right)
        if any(largest(row) is None for row in rows[right + 1 :]):  # a wrong guess may be no numbers to the model
            self._runner.cache.clear_places(part.blocks, part.end + right, part.end + len(part.draft))
        return right

    def _taken(self, part: Part[Sequence], logits: torch.Tensor) -> list[Piece | GenerationError]:
        """Nothing for a beam, which waits for the others of its search, and for a piece of a prompt."""
        sequence = part.request
        rows = logits.view(-1, logits.shape[-1])
        if part.draft:
            return _chosen_as_guessed(part, rows)
        if any(largest(row) is None for row in rows):
            return [_no_numbers(part.end)]
        if sequence.reads_all:
            _read(part, logits)
        if part.end < len(sequence.tokens):
            return []
        if sequence.max_tokens == 0:
            return [sequence.end()]
        if sequence in self._searches:
            self._searches[sequence].take(sequence, rows[-1])
            return []
        return [_chosen(sequence, rows[-1])]


def _chosen_as_guessed(part: Part[Sequence], rows: torch.Tensor) -> list[Piece | GenerationError]:
    """Tokens by rows of logits [1 + draft, vocabulary], as long as they are the draft's, and the one that is not.

    Each is chosen as without a draft: behind all tokens before it, by the sequence's own next random number. So the
    answer is the same one, drawn or not; that it comes from the right distribution needs no proof of its own.
    """
    found: list[Piece | GenerationError] = []
    for place, row in enumerate(rows):
        if largest(row) is None:
            return [*found, _no_numbers(part.end + place)]
        event = _chosen(part.request, row)
        found.append(event)
        if isinstance(event, GenerationError) or event.finish_reason is not None:
            break
        if place < len(part.draft) and event.token_ids[0] != part.draft[place]:
            break
    return found


def _no_numbers(num_tokens: int) -> GenerationError:
    return GenerationError(
        f"the model's logits after {num_tokens} tokens are not numbers: its weights are damaged, "
        "or the dtype is too narrow for it. Check the folder, or use dtype float32"
    )


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


def _failure(problem: Exception) -> EngineFailed:
    log.error("an answer failed: %s", problem, exc_info=problem)
    error = EngineFailed(f"the engine failed in this answer's step: {type(problem).__name__}: {problem}")
    error.__cause__ = problem
    return error


def _late(sequence: Sequence, length: int) -> DeadlinePassed:
    return DeadlinePassed(
        f"the time for this answer is up after {length} of at most {sequence.max_tokens} tokens. "
        "Give it more, or come again when fewer ask"
    )

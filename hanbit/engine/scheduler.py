"""Which tokens of which sequences are fed in a step, and who has room in the cache. No torch, no clock but the given.

A step feeds the next token of every answer and, up to a budget of tokens, parts of prompts that are still to be read.
Who comes first: the smaller `priority`, then the earlier arrival. When blocks run out, the last of those who are being
worked on gives its own up and waits again; it is read anew later, from what others have not overwritten meanwhile.
The first is never sent away, so everybody ends.

Tokens that are only guessed (drafts.py) take what is left of a step's budget and of the blocks, and are given up again
right after it: nobody is sent away, and nothing is shared, for a guess.

A request that has ended may be held, for another that continues it (sessions.py): its blocks stay as they are, the one
that is not full, too, until room is needed; who was held longest ago gives his up first, before anybody is sent away.
"""

import bisect
import time
from array import array
from collections import OrderedDict
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass, field, replace
from typing import Generic, Protocol, TypeVar

from hanbit.common.errors import GenerationError
from hanbit.engine.blocks import Blocks, Key, extend_keys


class Request(Protocol):
    """What a scheduler needs to know of a sequence (sequence.py)."""

    @property
    def tokens(self) -> Items[int]:
        """Prompt and answer so far; grows by the newest token when a step has fed all of them, or later."""

    @property
    def longest(self) -> int:
        """Tokens it has in the cache at most."""

    @property
    def priority(self) -> int:
        """Smaller ones come first."""

    @property
    def deadline(self) -> float | None:
        """In seconds of the scheduler's clock, when nobody waits for it any more."""

    @property
    def reads_all(self) -> bool:
        """Is something wanted of every token, so that none may be taken over from another?"""

    @property
    def root(self) -> Key:
        """What its keys and values depend on besides tokens: sequences with another root share no blocks."""


R = TypeVar("R", bound=Request)
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True)
class Limits:
    """`sequences` are worked on at the same time; `step_tokens` are fed in a step at most, and of prompts at most
    `patience` while an answer waits for its next token (a step feeds every answer's token in any case)."""

    sequences: int
    step_tokens: int = 1024
    patience: int = 1024


@dataclass(frozen=True)
class Part(Generic[T_co]):
    """Positions start..end of a request are to be fed. `blocks`: of its positions from 0 on, to be read and written.
    `draft`: tokens that may follow its own, to be fed behind them."""

    request: T_co
    start: int
    end: int
    blocks: "array[int]"
    draft: tuple[int, ...] = ()

    @property
    def last(self) -> int:
        """Behind the last position that is fed, the draft's included."""
        return self.end + len(self.draft)

    @property
    def num_rows(self) -> int:
        return self.last - self.start


@dataclass
class Counts:
    """Totals since the start. `cached_tokens` of the `read_tokens` were found in the cache and not computed."""

    preempted: int = 0
    read_tokens: int = 0
    cached_tokens: int = 0


@dataclass(eq=False)
class _Ticket(Generic[R]):
    request: R
    rank: tuple[int, int]  # priority, arrival
    blocks: "array[int]" = field(default_factory=lambda: array("i"))
    num_fed: int = 0  # tokens whose keys and values are in the blocks
    keys: list[Key] = field(default_factory=list)  # of full blocks of its tokens, from the first on
    behind: R | None = None  # who is continued, until it is

    @property
    def num_left(self) -> int:
        return len(self.request.tokens) - self.num_fed


class Scheduler(Generic[R]):
    """Not safe between threads. A caller does: plan; feed the parts; let requests grow; `fed` for each; plan again."""

    def __init__(
        self, blocks: Blocks, limits: Limits, shares: bool = True, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.blocks, self.limits, self.counts = blocks, limits, Counts()
        self._shares, self._clock = shares, clock
        self._num_arrived = 0
        self._tickets: dict[R, _Ticket[R]] = {}
        self._waiting: list[_Ticket[R]] = []  # both by rank
        self._running: list[_Ticket[R]] = []
        self._coming: dict[Key, _Ticket[R]] = {}  # blocks that one of the running is about to fill
        self._held: OrderedDict[R, _Ticket[R]] = OrderedDict()  # held longest ago first

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_held_blocks(self) -> int:
        """Of requests that have ended and may be continued. Other threads may ask: the list is made at once."""
        return sum(len(ticket.blocks) for ticket in list(self._held.values()))

    def add(self, request: R, behind: R | None = None) -> None:
        """It waits from now on. `behind`: one that has ended and whose tokens it begins with; if it is still held, its
        blocks are taken over. Raises GenerationError if it is larger than all blocks together."""
        check_size(request.longest, self.blocks.num_tokens)
        self._num_arrived += 1
        self._tickets[request] = ticket = _Ticket(request, (request.priority, self._num_arrived), behind=behind)
        bisect.insort(self._waiting, ticket, key=_rank)

    def remove(self, request: R, spoiled: bool = False) -> list[int]:
        """It has ended, or nobody wants it any more; nothing if it is not here. Its blocks are free from now on.

        `spoiled`: what it has fed may be no numbers, so nobody finds it any more. The blocks that were its own alone.
        """
        ticket = self._tickets.pop(request, None)
        if ticket is None:
            return []
        if ticket.behind is not None:
            self.let_go(ticket.behind)
        if ticket not in self._running:
            self._waiting.remove(ticket)
            return []
        self._running.remove(ticket)
        blocks = list(ticket.blocks)
        if spoiled:
            self.blocks.forget(blocks)
        self._release(ticket)
        return [block for block in blocks if self.blocks.num_free_among([block])]

    def hold(self, request: R) -> None:
        """It has ended, and its blocks stay for one that continues it, as long as nobody needs them."""
        ticket = self._tickets.pop(request)
        self._running.remove(ticket)
        self._no_longer_coming(ticket)
        self._keep(ticket, ticket.num_fed)
        self._held[request] = ticket

    def let_go(self, request: R) -> None:
        """Nobody will continue it; nothing if it is not held."""
        ticket = self._held.pop(request, None)
        if ticket is not None:
            self._release(ticket)

    def fork(self, request: R, child: R) -> tuple[int, int] | None:
        """`child` begins with the tokens of `request` and goes on from the same place, in the same turn: a beam.

        They share full blocks. Of the one that is not full the child gets a copy: (from, to), to be made before the
        next step. Without a seat or a block it waits, and reads its tokens anew.
        """
        ticket, size = self._tickets[request], self.blocks.block_size
        self._tickets[child] = new = _Ticket(child, ticket.rank, keys=list(ticket.keys))
        num_full, rest = divmod(ticket.num_fed, size)
        while rest > 0 and self.blocks.num_free == 0 and self._give_up_held():
            pass
        has_room = len(self._running) < self.limits.sequences and self.blocks.num_free >= (rest > 0)
        if ticket not in self._running or not has_room:
            bisect.insort(self._waiting, new, key=_rank)
            return None
        bisect.insort(self._running, new, key=_rank)
        new.blocks, new.num_fed = ticket.blocks[:num_full], ticket.num_fed
        for block in new.blocks:
            self.blocks.share(block)
        if rest == 0:
            return None
        new.blocks.append(self.blocks.take())
        return ticket.blocks[num_full], new.blocks[num_full]

    def become(self, request: R, child: R) -> None:
        """`child`, which begins with the tokens of `request`, stands in its place from now on."""
        self._tickets[child] = ticket = self._tickets.pop(request)
        ticket.request = child

    def late(self) -> list[R]:
        """Those whose deadline has passed, first come first; they are still here."""
        timed = [one for one in self._tickets.values() if one.request.deadline is not None]
        if not timed:
            return []
        now = self._clock()
        return [one.request for one in timed if one.request.deadline is not None and one.request.deadline <= now]

    def plan(self) -> list[Part[R]]:
        """What to feed in the next step; empty only if nobody is here."""
        parts = self._plan()
        while not parts and self._running:  # all wait for fellows of theirs to get in
            self._preempt(self._running[-1])
            parts = self._plan()
        assert parts or not self._tickets
        return parts

    def _plan(self) -> list[Part[R]]:
        num_growing = sum(ticket.num_left == 1 for ticket in self._running)
        budget = self.limits.step_tokens - num_growing
        budget = min(budget, self.limits.patience) if num_growing else budget
        parts: list[Part[R]] = []
        preempted = self.counts.preempted
        for ticket in list(self._running):
            if ticket not in self._running:  # it has made room for one before it
                continue
            tokens = 1 if ticket.num_left == 1 else min(ticket.num_left, budget)
            if tokens > 0 and self._grow(ticket, ticket.num_fed + tokens):
                budget -= tokens if ticket.num_left > 1 else 0
                parts.append(_part(ticket, tokens))
        if self.counts.preempted == preempted:  # else who was just sent away would come back at once
            parts += self._admit(budget)
        return [part for part in parts if self._tickets[part.request] in self._running]  # admitting sends away, too

    def lengthen(self, parts: list[Part[R]], drafts: Mapping[R, Items[int]]) -> list[Part[R]]:
        """The same parts, with as much of the drafts as the step's budget and free blocks leave. They belong to parts
        that end where their requests do."""
        left = self.limits.step_tokens - sum(part.end - part.start for part in parts)
        found = []
        for part in parts:
            ticket = self._tickets[part.request]
            room = (len(ticket.blocks) + self.blocks.num_free) * self.blocks.block_size - part.end
            draft = tuple(drafts.get(part.request, ()))[: max(0, min(left, room, part.request.longest - part.end))]
            assert not draft or part.end == len(part.request.tokens)
            self._extend(ticket, part.end + len(draft))
            left -= len(draft)
            found.append(replace(part, draft=draft) if draft else part)
        return found

    def fed(self, part: Part[R], right: int = 0) -> None:
        """The part's keys and values are in the cache, and are numbers. `right`: so many of its draft's tokens are the
        request's own by now; the others are as if they had never been fed."""
        ticket, tokens = self._tickets[part.request], part.request.tokens
        assert right == 0 or tuple(tokens[part.end : part.end + right]) == part.draft[:right]
        before, ticket.num_fed = ticket.num_fed, part.end + right
        size = self.blocks.block_size
        if self._shares and ticket.num_fed // size > before // size:
            extend_keys(ticket.keys, part.request.root, tokens, size)
            for index in range(before // size, ticket.num_fed // size):
                self.blocks.know(ticket.blocks[index], ticket.keys[index])
                self._coming.pop(ticket.keys[index], None)
        if part.draft:
            self._keep(ticket, len(tokens))

    def _grow(self, ticket: _Ticket[R], tokens: int) -> bool:
        """Room for so many tokens of it, if need be instead of those behind it; False: it had to leave itself."""
        while self.blocks.needed(tokens) - len(ticket.blocks) > self.blocks.num_free:
            if self._give_up_held():
                continue
            last = self._running[-1]
            self._preempt(last)
            if last is ticket:
                return False
        self._extend(ticket, tokens)
        return True

    def _give_up_held(self, but: R | None = None) -> bool:
        """The blocks of who was held longest ago; False if nobody is (else)."""
        request = next((one for one in self._held if one is not but), None)
        if request is not None:
            self.let_go(request)
        return request is not None

    def _keep(self, ticket: _Ticket[R], tokens: int) -> None:
        """No more blocks of it than so many tokens take."""
        kept = self.blocks.needed(tokens)
        self.blocks.release(ticket.blocks[kept:])
        del ticket.blocks[kept:]

    def _extend(self, ticket: _Ticket[R], tokens: int) -> None:
        for _ in range(self.blocks.needed(tokens) - len(ticket.blocks)):
            ticket.blocks.append(self.blocks.take())

    def _admit(self, budget: int) -> list[Part[R]]:
        """Those who wait, in their order, as long as there is room for all that they have to read."""
        parts: list[Part[R]] = []
        for ticket in list(self._waiting):
            if budget <= 0:
                break
            shared = self._shared(ticket)
            if shared is None:
                continue
            if not self._make_way(ticket, shared):
                break
            self._start(ticket, shared)
            tokens = min(ticket.num_left, budget)
            budget -= tokens
            parts.append(_part(ticket, tokens))
        return parts

    def _shared(self, ticket: _Ticket[R]) -> list[int] | None:
        """Blocks that hold its beginning already; None if the next one is just being filled by another."""
        if (held := self._continued(ticket)) is not None:
            return list(held.blocks)
        if not self._shares or ticket.request.reads_all:
            return []
        size, tokens = self.blocks.block_size, ticket.request.tokens
        extend_keys(ticket.keys, ticket.request.root, tokens, size)
        keys = ticket.keys[: (len(tokens) - 1) // size]  # the last token is fed in any case: its logits are wanted
        found = self.blocks.find(keys)
        return None if len(found) < len(keys) and keys[len(found)] in self._coming else found

    def _continued(self, ticket: _Ticket[R]) -> _Ticket[R] | None:
        """Who is held for it, and of whom all but the newest token is wanted at least; nobody who was computed with an
        adapter that has been loaded anew since then."""
        held = None if ticket.behind is None else self._held.get(ticket.behind)
        if held is None or ticket.request.reads_all or held.num_fed >= len(ticket.request.tokens):
            return None
        return held if held.request.root == ticket.request.root else None

    def _make_way(self, ticket: _Ticket[R], shared: list[int]) -> bool:
        """Is there a seat and room for it, if need be those of one with a larger priority?"""
        while not self._has_room(ticket, shared):
            own = ticket.behind if self._continued(ticket) is not None else None
            if len(self._running) < self.limits.sequences and self._give_up_held(but=own):
                continue
            if not self._running or self._running[-1].rank[0] <= ticket.rank[0]:
                return False
            self._preempt(self._running[-1])
        return True

    def _has_room(self, ticket: _Ticket[R], shared: list[int]) -> bool:
        needed = self.blocks.needed(len(ticket.request.tokens)) - len(shared)
        free = self.blocks.num_free - self.blocks.num_free_among(shared)
        return len(self._running) < self.limits.sequences and needed <= free

    def _start(self, ticket: _Ticket[R], shared: list[int]) -> None:
        self._waiting.remove(ticket)
        bisect.insort(self._running, ticket, key=_rank)
        held = self._continued(ticket)
        if held is not None:
            del self._held[held.request]
            ticket.blocks, ticket.num_fed, ticket.keys = held.blocks, held.num_fed, held.keys
        else:
            for block in shared:
                self.blocks.share(block)
            ticket.blocks = array("i", shared)
            ticket.num_fed = len(shared) * self.blocks.block_size
        if ticket.behind is not None:
            self.let_go(ticket.behind)
            ticket.behind = None
        if self._shares:
            extend_keys(ticket.keys, ticket.request.root, ticket.request.tokens, self.blocks.block_size)
        self._extend(ticket, len(ticket.request.tokens))  # all of them: nobody is read halfway and sent away
        self.counts.read_tokens += len(ticket.request.tokens)
        self.counts.cached_tokens += ticket.num_fed
        if not ticket.request.reads_all:
            self._coming.update(dict.fromkeys(ticket.keys[ticket.num_fed // self.blocks.block_size :], ticket))

    def _preempt(self, ticket: _Ticket[R]) -> None:
        self.counts.preempted += 1
        self._running.remove(ticket)
        self._release(ticket)
        bisect.insort(self._waiting, ticket, key=_rank)

    def _release(self, ticket: _Ticket[R]) -> None:
        self.blocks.release(ticket.blocks)
        ticket.blocks, ticket.num_fed = array("i"), 0
        self._no_longer_coming(ticket)

    def _no_longer_coming(self, ticket: _Ticket[R]) -> None:
        for key in ticket.keys:
            if self._coming.get(key) is ticket:
                del self._coming[key]


def check_size(longest: int, num_tokens: int, name: str = "the prompt") -> None:
    """Raises GenerationError for what no amount of waiting makes fit."""
    if longest > num_tokens:
        raise GenerationError(
            f"{name} and its answer take {longest} tokens of the key-value cache, which holds {num_tokens}. "
            "Shorten it, lower max_tokens, or give the engine more: num_blocks, kv_cache_gb"
        )


def _rank(ticket: _Ticket[R]) -> tuple[int, int]:
    return ticket.rank


def _part(ticket: _Ticket[R], tokens: int) -> Part[R]:
    return Part(ticket.request, ticket.num_fed, ticket.num_fed + tokens, ticket.blocks)

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
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Items
from dataclasses import replace
from typing import Generic, TypeVar

from hanbit.engine.blocks import Blocks
from hanbit.engine.parts import Counts, Limits, Part, Request, check_size
from hanbit.engine.room import Room, Ticket

R = TypeVar("R", bound=Request)


class Scheduler(Generic[R]):
    """Not safe between threads. A caller does: plan; feed the parts; let requests grow; `fed` for each; plan again."""

    def __init__(
        self, blocks: Blocks, limits: Limits, shares: bool = True, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.blocks, self.limits, self.counts = blocks, limits, Counts()
        self._clock = clock
        self._num_arrived = 0
        self._tickets: dict[R, Ticket[R]] = {}
        self._waiting: list[Ticket[R]] = []  # both by rank
        self._running: list[Ticket[R]] = []
        self._room: Room[R] = Room(blocks, shares)

    @property
    def requests(self) -> list[R]:
        """All that are here, those that are held left out."""
        return list(self._tickets)

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_held_blocks(self) -> int:
        """Of requests that have ended and may be continued. Other threads may ask."""
        return self._room.num_held_blocks

    def add(self, request: R, behind: R | None = None) -> None:
        """It waits from now on. `behind`: one that has ended and whose tokens it begins with; if it is still held, its
        blocks are taken over. Raises GenerationError if it is larger than all blocks together."""
        check_size(request.longest, self.blocks.num_tokens)
        self._num_arrived += 1
        self._tickets[request] = ticket = Ticket(request, (request.priority, self._num_arrived), behind=behind)
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
        self._room.release(ticket)
        return [block for block in blocks if self.blocks.num_free_among([block])]

    def hold(self, request: R) -> None:
        """It has ended, and its blocks stay for one that continues it, as long as nobody needs them."""
        ticket = self._tickets.pop(request)
        self._running.remove(ticket)
        self._room.hold(ticket)

    def let_go(self, request: R) -> None:
        """Nobody will continue it; nothing if it is not held."""
        self._room.let_go(request)

    def fork(self, request: R, child: R) -> tuple[int, int] | None:
        """`child` begins with the tokens of `request` and goes on from the same place, in the same turn: a beam.

        They share full blocks. Of the one that is not full the child gets a copy: (from, to), to be made before the
        next step. Without a seat or a block it waits, and reads its tokens anew.
        """
        ticket = self._tickets[request]
        self._tickets[child] = new = Ticket(child, ticket.rank, keys=list(ticket.keys))
        needed = int(ticket.num_fed % self.blocks.block_size > 0)
        while needed > self.blocks.num_free and self._room.give_up_held():
            pass
        has_room = len(self._running) < self.limits.sequences and self.blocks.num_free >= needed
        if ticket not in self._running or not has_room:
            bisect.insort(self._waiting, new, key=_rank)
            return None
        bisect.insort(self._running, new, key=_rank)
        return self._room.fork(ticket, new)

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
            self._room.extend(ticket, part.end + len(draft))
            left -= len(draft)
            found.append(replace(part, draft=draft) if draft else part)
        return found

    def fed(self, part: Part[R], right: int = 0) -> None:
        """The part's keys and values are in the cache, and are numbers. `right`: so many of its draft's tokens are the
        request's own by now; the others are as if they had never been fed."""
        ticket, tokens = self._tickets[part.request], part.request.tokens
        assert right == 0 or tuple(tokens[part.end : part.end + right]) == part.draft[:right]
        before, ticket.num_fed = ticket.num_fed, part.end + right
        self._room.filled(ticket, before)
        if part.draft:
            self._room.keep(ticket, len(tokens))

    def _grow(self, ticket: Ticket[R], tokens: int) -> bool:
        """Room for so many tokens of it, if need be instead of those behind it; False: it had to leave itself."""
        while self.blocks.needed(tokens) - len(ticket.blocks) > self.blocks.num_free:
            if self._room.give_up_held():
                continue
            last = self._running[-1]
            self._preempt(last)
            if last is ticket:
                return False
        self._room.extend(ticket, tokens)
        return True

    def _admit(self, budget: int) -> list[Part[R]]:
        """Those who wait, in their order, as long as there is room for all that they have to read."""
        parts: list[Part[R]] = []
        for ticket in list(self._waiting):
            if budget <= 0:
                break
            shared = self._room.shared(ticket)
            if shared is None:
                continue
            if not self._make_way(ticket, shared):
                break
            self._start(ticket, shared)
            tokens = min(ticket.num_left, budget)
            budget -= tokens + ticket.request.num_read_apart
            parts.append(_part(ticket, tokens))
        return parts

    def _make_way(self, ticket: Ticket[R], shared: list[int]) -> bool:
        """Is there a seat and room for it, if need be those of one with a larger priority?"""
        while not self._has_room(ticket, shared):
            own = ticket.behind if self._room.continued(ticket) is not None else None
            if len(self._running) < self.limits.sequences and self._room.give_up_held(but=own):
                continue
            if not self._running or self._running[-1].rank[0] <= ticket.rank[0]:
                return False
            self._preempt(self._running[-1])
        return True

    def _has_room(self, ticket: Ticket[R], shared: list[int]) -> bool:
        return len(self._running) < self.limits.sequences and self._room.has_for(ticket, shared)

    def _start(self, ticket: Ticket[R], shared: list[int]) -> None:
        self._waiting.remove(ticket)
        bisect.insort(self._running, ticket, key=_rank)
        self._room.start(ticket, shared)
        self.counts.read_tokens += len(ticket.request.tokens)
        self.counts.cached_tokens += ticket.num_fed

    def _preempt(self, ticket: Ticket[R]) -> None:
        self.counts.preempted += 1
        self._running.remove(ticket)
        self._room.release(ticket)
        bisect.insort(self._waiting, ticket, key=_rank)


def _rank(ticket: Ticket[R]) -> tuple[int, int]:
    return ticket.rank


def _part(ticket: Ticket[R], tokens: int) -> Part[R]:
    return Part(ticket.request, ticket.num_fed, ticket.num_fed + tokens, ticket.blocks)

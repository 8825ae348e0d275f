"""Which blocks each request has: those that others have filled before it, its own, and those that are held for one that
continues it. No torch.

What runs out here is the scheduler's to settle (scheduler.py): it says who gets room, and who gives his up.
"""

from array import array
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from hanbit.engine.blocks import Blocks, Key, extend_keys
from hanbit.engine.parts import Request

R = TypeVar("R", bound=Request)


@dataclass(eq=False)
class Ticket(Generic[R]):
    """A request's place and its blocks."""

    request: R
    rank: tuple[int, int]  # priority, arrival
    blocks: "array[int]" = field(default_factory=lambda: array("i"))
    num_fed: int = 0  # tokens whose keys and values are in the blocks
    keys: list[Key] = field(default_factory=list)  # of full blocks of its tokens, from the first on
    behind: R | None = None  # who is continued, until it is

    @property
    def num_left(self) -> int:
        return len(self.request.tokens) - self.num_fed


class Room(Generic[R]):
    """`shares`: what begins alike shares full blocks."""

    def __init__(self, blocks: Blocks, shares: bool) -> None:
        self._blocks, self._shares = blocks, shares
        self._coming: dict[Key, Ticket[R]] = {}  # blocks that a ticket is about to fill
        self._held: OrderedDict[R, Ticket[R]] = OrderedDict()  # held longest ago first

    @property
    def num_held_blocks(self) -> int:
        """Of requests that have ended and may be continued. Other threads may ask: the list is made at once."""
        return sum(len(ticket.blocks) for ticket in list(self._held.values()))

    def extend(self, ticket: Ticket[R], tokens: int) -> None:
        """Blocks for so many tokens of it, which are free."""
        for _ in range(self._blocks.needed(tokens) - len(ticket.blocks)):
            ticket.blocks.append(self._blocks.take())

    def keep(self, ticket: Ticket[R], tokens: int) -> None:
        """No more blocks of it than so many tokens take."""
        kept = self._blocks.needed(tokens)
        self._blocks.release(ticket.blocks[kept:])
        del ticket.blocks[kept:]

    def release(self, ticket: Ticket[R]) -> None:
        """It has none any more, and would be read anew."""
        self._blocks.release(ticket.blocks)
        ticket.blocks, ticket.num_fed = array("i"), 0
        self._no_longer_coming(ticket)

    def filled(self, ticket: Ticket[R], before: int) -> None:
        """`num_fed` has grown from `before`: others may find what is full now."""
        size = self._blocks.block_size
        if self._shares and ticket.num_fed // size > before // size:
            extend_keys(ticket.keys, ticket.request.root, ticket.request.tokens, size)
            for index in range(before // size, ticket.num_fed // size):
                self._blocks.know(ticket.blocks[index], ticket.keys[index])
                self._coming.pop(ticket.keys[index], None)

    def hold(self, ticket: Ticket[R]) -> None:
        """Its request has ended; its blocks stay for one that continues it, as long as nobody needs them."""
        self._no_longer_coming(ticket)
        self.keep(ticket, ticket.num_fed)
        self._held[ticket.request] = ticket

    def let_go(self, request: R) -> None:
        """Nobody will continue it; nothing if it is not held."""
        ticket = self._held.pop(request, None)
        if ticket is not None:
            self.release(ticket)

    def give_up_held(self, but: R | None = None) -> bool:
        """The blocks of who was held longest ago; False if nobody is (else)."""
        request = next((one for one in self._held if one is not but), None)
        if request is not None:
            self.let_go(request)
        return request is not None

    def shared(self, ticket: Ticket[R]) -> list[int] | None:
        """Blocks that hold its beginning already; None if the next one is just being filled by another."""
        if (held := self.continued(ticket)) is not None:
            return list(held.blocks)
        if not self._shares or ticket.request.reads_all:
            return []
        size, tokens = self._blocks.block_size, ticket.request.tokens
        extend_keys(ticket.keys, ticket.request.root, tokens, size)
        keys = ticket.keys[: (len(tokens) - 1) // size]  # the last token is fed in any case: its logits are wanted
        found = self._blocks.find(keys)
        return None if len(found) < len(keys) and keys[len(found)] in self._coming else found

    def continued(self, ticket: Ticket[R]) -> Ticket[R] | None:
        """Who is held for it, and of whom all but the newest token is wanted at least; nobody who was computed with an
        adapter that has been loaded anew since then."""
        held = None if ticket.behind is None else self._held.get(ticket.behind)
        if held is None or ticket.request.reads_all or held.num_fed >= len(ticket.request.tokens):
            return None
        return held if held.request.root == ticket.request.root else None

    def has_for(self, ticket: Ticket[R], shared: list[int]) -> bool:
        """Are there free blocks for all that it has to read beside those `shared`?"""
        needed = self._blocks.needed(len(ticket.request.tokens)) - len(shared)
        return needed <= self._blocks.num_free - self._blocks.num_free_among(shared)

    def start(self, ticket: Ticket[R], shared: list[int]) -> None:
        """Blocks for all of its tokens: nobody is read halfway and sent away."""
        held = self.continued(ticket)
        if held is not None:
            del self._held[held.request]
            ticket.blocks, ticket.num_fed, ticket.keys = held.blocks, held.num_fed, held.keys
        else:
            for block in shared:
                self._blocks.share(block)
            ticket.blocks = array("i", shared)
            ticket.num_fed = len(shared) * self._blocks.block_size
        if ticket.behind is not None:
            self.let_go(ticket.behind)
            ticket.behind = None
        if self._shares:
            extend_keys(ticket.keys, ticket.request.root, ticket.request.tokens, self._blocks.block_size)
        self.extend(ticket, len(ticket.request.tokens))
        if not ticket.request.reads_all:
            self._coming.update(dict.fromkeys(ticket.keys[ticket.num_fed // self._blocks.block_size :], ticket))

    def fork(self, ticket: Ticket[R], new: Ticket[R]) -> tuple[int, int] | None:
        """`new` shares the full blocks of `ticket`, and gets one that is free for what is to be copied, (from, to), of
        one that is not full."""
        num_full, rest = divmod(ticket.num_fed, self._blocks.block_size)
        new.blocks, new.num_fed = ticket.blocks[:num_full], ticket.num_fed
        for block in new.blocks:
            self._blocks.share(block)
        if rest == 0:
            return None
        new.blocks.append(self._blocks.take())
        return ticket.blocks[num_full], new.blocks[num_full]

    def _no_longer_coming(self, ticket: Ticket[R]) -> None:
        for key in ticket.keys:
            if self._coming.get(key) is ticket:
                del self._coming[key]

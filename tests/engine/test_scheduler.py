"""Who is fed when, with a make-believe cache that notices any block written by two or read by a stranger.

Its model is a function of all tokens so far, so the answer of each request is known without a scheduler. No torch.
"""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hanbit.common.errors import GenerationError
from hanbit.engine.blocks import Blocks
from hanbit.engine.parts import Limits, Part
from hanbit.engine.scheduler import Scheduler

SIZE = 4


@dataclass(eq=False)
class Talk:
    """A request; `answer` is what it got so far."""

    prompt: list[int]
    length: int
    priority: int = 0
    deadline: float | None = None
    root: bytes = b""
    reads_all: bool = False
    num_read_apart: int = 0
    is_kept: bool = False  # its blocks stay, for one that continues it
    answer: list[int] = field(default_factory=list)

    @property
    def tokens(self) -> list[int]:
        return self.prompt + self.answer

    @property
    def longest(self) -> int:
        return len(self.prompt) + self.length - 1

    @property
    def alone(self) -> list[int]:
        """What it answers by itself."""
        tokens = list(self.prompt)
        while len(tokens) < len(self.prompt) + self.length:
            tokens.append(next_token(self.root, tokens))
        return tokens[len(self.prompt) :]


def next_token(root: bytes, tokens: list[int]) -> int:
    return (sum((place + 1) * token for place, token in enumerate(tokens)) + len(root)) % 7


class Machine:
    """A scheduler and the memory of its blocks: each place holds the token and root that it was written for."""

    def __init__(
        self, num_blocks: int, limits: Limits, shares: bool = True, clock: Callable[[], float] = float
    ) -> None:
        self.scheduler: Scheduler[Talk] = Scheduler(Blocks(num_blocks, SIZE), limits, shares, clock)
        self.memory: dict[tuple[int, int], tuple[bytes, int]] = {}
        self.steps: list[list[tuple[Talk, int]]] = []  # tokens fed to each
        self.num_right = 0  # guessed tokens that were accepted

    def step(self, guess: Callable[[Talk], list[int]] = lambda _: []) -> list[Talk]:
        """Those that have ended."""
        parts, ended = self.scheduler.plan(), []
        growing = [part.request for part in parts if part.end == len(part.request.tokens)]
        parts = self.scheduler.lengthen(parts, {talk: guess(talk) for talk in growing})
        self.steps.append([(part.request, part.end + len(part.draft) - part.start) for part in parts])
        assert sum(num for _, num in self.steps[-1]) <= max(self.scheduler.limits.step_tokens, len(parts))
        for part in parts:
            self.write(part)
        for part in parts:
            talk = part.request
            fed = [(talk.root, token) for token in (*talk.tokens[: part.end], *part.draft)]
            assert self.read(part) == fed
            if part.end < len(talk.tokens):
                self.scheduler.fed(part)
                continue
            right = self.grow(talk, part.draft)
            self.num_right += right
            self.scheduler.fed(part, right)
            if len(talk.answer) == talk.length:
                if talk.is_kept:
                    self.scheduler.hold(talk)
                else:
                    self.scheduler.remove(talk)
                ended.append(talk)
        return ended

    def grow(self, talk: Talk, draft: tuple[int, ...]) -> int:
        """As many tokens as the draft has right, and one more; how many it had right."""
        for right, guessed in enumerate((*draft, None)):
            talk.answer.append(next_token(talk.root, talk.tokens))
            if talk.answer[-1] != guessed:
                return right
            if len(talk.answer) == talk.length:
                return right + 1
        return len(draft)

    def write(self, part: Part[Talk]) -> None:
        tokens = [*part.request.tokens[: part.end], *part.draft]
        for place in range(part.start, len(tokens)):
            self.memory[part.blocks[place // SIZE], place % SIZE] = (part.request.root, tokens[place])

    def read(self, part: Part[Talk]) -> list[tuple[bytes, int]]:
        places = range(part.end + len(part.draft))
        return [self.memory[part.blocks[place // SIZE], place % SIZE] for place in places]

    def finish(self) -> None:
        while self.scheduler.num_running + self.scheduler.num_waiting:
            self.step()


def test_fifty_long_requests_on_eight_blocks_all_end_as_they_do_alone() -> None:
    machine = Machine(8, Limits(sequences=16, step_tokens=8, patience=8))
    talks = [Talk([number % 5, number % 3, 1], 8 * SIZE - 4 - number % 6) for number in range(50)]
    for talk in talks:
        machine.scheduler.add(talk)
    machine.finish()
    assert all(talk.answer == talk.alone for talk in talks)
    assert machine.scheduler.counts.preempted > 0
    assert machine.scheduler.blocks.num_used == 0


def test_every_answer_grows_in_every_step_while_a_long_prompt_is_read_beside() -> None:
    machine = Machine(40, Limits(sequences=4, step_tokens=100, patience=6))
    growing, long = Talk([1], 30), Talk([2] * 60, 2)
    machine.scheduler.add(growing)
    machine.step()
    machine.scheduler.add(long)
    for _ in range(10):
        machine.step()
    assert machine.steps[1:] == [[(growing, 1), (long, 6)]] * 10
    assert len(long.answer) == 1


def test_a_smaller_priority_number_comes_first_and_takes_the_place_of_a_larger_one() -> None:
    machine = Machine(40, Limits(sequences=2))
    low, later, urgent = Talk([1, 2], 9, priority=5), Talk([2], 9, priority=5), Talk([3], 3, priority=1)
    for talk in (low, later, urgent):
        machine.scheduler.add(talk)
    machine.step()
    assert {talk for talk, _ in machine.steps[0]} == {urgent, low}
    more_urgent = Talk([4], 3, priority=0)
    machine.scheduler.add(more_urgent)
    machine.step()
    assert {talk for talk, _ in machine.steps[1]} == {urgent, more_urgent}  # of two seats the worst was given up
    machine.finish()
    assert all(talk.answer == talk.alone for talk in (low, later, urgent, more_urgent))


def test_a_shared_beginning_is_read_once_even_by_those_who_come_together() -> None:
    machine = Machine(100, Limits(sequences=16, step_tokens=8))
    prefix = [number % 7 for number in range(40)]
    talks = [Talk([*prefix, number], 3) for number in range(16)]
    for talk in talks:
        machine.scheduler.add(talk)
    machine.finish()
    assert all(talk.answer == talk.alone for talk in talks)
    assert machine.scheduler.counts.cached_tokens == 15 * 40
    again = Talk([*prefix, 3, *talks[3].answer, 5], 4)  # a talk goes on
    machine.scheduler.add(again)
    machine.step()
    assert machine.scheduler.counts.cached_tokens - 15 * 40 == 40
    machine.finish()
    assert again.answer == again.alone


def test_another_root_shares_nothing_and_neither_does_a_scheduler_that_may_not() -> None:
    machine = Machine(100, Limits(sequences=4))
    for root in (b"", b"one", b"two"):
        machine.scheduler.add(Talk([1] * 20, 3, root=root))
        machine.finish()
    assert machine.scheduler.counts.cached_tokens == 0
    machine = Machine(100, Limits(sequences=4), shares=False)
    for _ in range(2):
        machine.scheduler.add(Talk([1] * 20, 3))
        machine.finish()
    assert machine.scheduler.counts.cached_tokens == 0


def test_those_whose_time_is_up_are_named_wherever_they_stand() -> None:
    now = [0.0]
    machine = Machine(40, Limits(sequences=1), clock=lambda: now[0])
    running, waiting, patient = Talk([1], 20, deadline=5), Talk([2], 20, deadline=7), Talk([3], 2)
    for talk in (running, waiting, patient):
        machine.scheduler.add(talk)
    machine.step()
    assert machine.scheduler.late() == []
    now[0] = 5
    assert machine.scheduler.late() == [running]
    now[0] = 8
    assert machine.scheduler.late() == [running, waiting]


def test_what_is_larger_than_the_whole_cache_is_refused_with_numbers() -> None:
    machine = Machine(8, Limits(sequences=2))
    machine.scheduler.add(Talk([1] * 30, 3))
    with pytest.raises(GenerationError, match=r"take 33 tokens .* holds 32\. .* num_blocks"):
        machine.scheduler.add(Talk([1] * 30, 4))
    machine.finish()


def test_a_guess_takes_no_block_from_anybody_and_leaves_none_behind() -> None:
    machine = Machine(4, Limits(sequences=2, step_tokens=7))
    one, other = Talk([1, 2, 3], 6), Talk([2, 2, 3], 6)
    for talk in (one, other):
        machine.scheduler.add(talk)
    machine.step()
    assert machine.scheduler.blocks.num_used == 2
    machine.step(lambda talk: [*talk.alone[1:4], 9, 9])  # three right, two wrong
    assert machine.steps[-1] == [(one, 5), (other, 2)]  # an answer's last token is never fed; of 7 rows what is left
    assert (len(one.answer), len(other.answer)) == (5, 3)
    assert machine.scheduler.blocks.num_used == 4
    machine.step(lambda _: [9] * 8)
    assert machine.steps[-1] == [(one, 1), (other, 3)]
    assert machine.scheduler.blocks.num_used == 2
    machine.finish()
    assert (one.answer, other.answer) == (one.alone, other.alone)
    assert machine.scheduler.blocks.num_used == 0
    assert machine.scheduler.counts.preempted == 0


def test_only_what_was_accepted_of_a_guess_is_found_by_others() -> None:
    machine = Machine(20, Limits(sequences=2))
    talk = Talk([1, 2, 3], 13)
    machine.scheduler.add(talk)
    machine.step()
    machine.step(lambda one: [*one.alone[1:4], 8, 8, 8, 8, 8, 8])
    known = machine.scheduler.blocks._by_key
    assert len(known) == 1  # of positions 0..4; what was guessed wrongly would have filled two more
    machine.finish()
    for end, found in (([*talk.alone[:4], 8, 8, 8, 8, 8, 8], 4), (talk.alone, 12)):
        before = machine.scheduler.counts.cached_tokens
        again = Talk([*talk.prompt, *end], 2)
        machine.scheduler.add(again)
        machine.finish()
        assert again.answer == again.alone
        assert machine.scheduler.counts.cached_tokens - before == found


def test_one_that_continues_another_reads_what_is_new_from_the_midst_of_a_block() -> None:
    for shares in (True, False):
        machine = Machine(20, Limits(sequences=2), shares)
        first = Talk([1, 2, 3], 4, is_kept=True)
        machine.scheduler.add(first)
        machine.finish()
        assert machine.scheduler.num_held_blocks == machine.scheduler.blocks.num_used == 2  # 6 of 7 tokens
        second = Talk([*first.tokens, 4, 4], 3, is_kept=True)
        machine.scheduler.add(second, first)
        machine.step()
        assert machine.steps[-1] == [(second, 3)]
        machine.finish()
        assert second.answer == second.alone
        assert machine.scheduler.num_held_blocks == 3
        machine.scheduler.let_go(second)
        assert machine.scheduler.blocks.num_used == 0


def test_who_was_held_longest_ago_gives_way_first_and_is_read_anew_from_its_tokens() -> None:
    machine = Machine(6, Limits(sequences=2))
    held = [Talk([number] * 5, 4, is_kept=True) for number in (1, 2)]
    for talk in held:
        machine.scheduler.add(talk)
        machine.finish()
    assert machine.scheduler.num_held_blocks == 4
    machine.scheduler.add(Talk([3] * 10, 2))
    machine.step()
    assert list(machine.scheduler._room._held) == held[1:]
    machine.finish()
    again = [Talk([*talk.tokens, 6], 3) for talk in held]
    for talk, before in zip(again, held, strict=True):
        machine.scheduler.add(talk, before)
    machine.finish()
    assert [talk.answer for talk in again] == [talk.alone for talk in again]
    assert machine.scheduler.counts.preempted == machine.scheduler.blocks.num_used == 0


def test_one_that_leaves_before_it_has_begun_takes_along_whom_it_would_have_continued() -> None:
    machine = Machine(6, Limits(sequences=1))
    first = Talk([1, 2, 3], 4, is_kept=True)
    machine.scheduler.add(first)
    machine.finish()
    second = Talk([*first.tokens, 4], 3)
    machine.scheduler.add(second, first)
    machine.scheduler.remove(second)
    assert machine.scheduler.blocks.num_used == 0


def test_what_was_spoiled_is_found_by_nobody() -> None:
    machine = Machine(8, Limits(sequences=2))
    bad = Talk([1] * 20, 3)
    machine.scheduler.add(bad)
    machine.step()
    assert len(machine.scheduler.remove(bad, spoiled=True)) == 5
    machine.scheduler.add(Talk([1] * 20, 3))
    machine.finish()
    assert machine.scheduler.counts.cached_tokens == 0


class AnyOrder(RuleBasedStateMachine):
    """Requests come, leave and grow in any order, on few blocks, with beginnings in common."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.machine = Machine(9, Limits(sequences=3, step_tokens=7, patience=3), clock=lambda: self.now)
        self.here: list[Talk] = []
        self.resting: list[Talk] = []  # ended, and held unless room was needed

    @precondition(lambda self: self.resting)
    @rule(data=st.data(), more=st.lists(st.integers(0, 2), max_size=5), length=st.integers(1, 6), kept=st.booleans())
    def go_on(self, data: st.DataObject, more: list[int], length: int, kept: bool) -> None:
        before = data.draw(st.sampled_from(self.resting))
        talk = Talk([*before.tokens, *more], length, before.priority, None, before.root, is_kept=kept)
        if talk.longest <= 9 * SIZE:
            self.resting.remove(before)
            self.machine.scheduler.add(talk, before)
            self.here.append(talk)

    @precondition(lambda self: self.resting)
    @rule(data=st.data())
    def end_session(self, data: st.DataObject) -> None:
        talk = data.draw(st.sampled_from(self.resting))
        self.resting.remove(talk)
        self.machine.scheduler.let_go(talk)

    @rule(
        begin=st.integers(0, 20),
        end=st.lists(st.integers(0, 2), min_size=1, max_size=9),
        length=st.integers(1, 8),
        priority=st.integers(0, 2),
        root=st.sampled_from([b"", b"adapter"]),
        seconds=st.sampled_from([None, None, 3, 30]),
        kept=st.booleans(),
    )
    def add(
        self, begin: int, end: list[int], length: int, priority: int, root: bytes, seconds: float | None, kept: bool
    ) -> None:
        deadline = None if seconds is None else self.now + seconds
        talk = Talk([*([1] * begin), *end], length, priority, deadline, root, is_kept=kept)
        if talk.longest > 9 * SIZE:
            with pytest.raises(GenerationError):
                self.machine.scheduler.add(talk)
        else:
            self.machine.scheduler.add(talk)
            self.here.append(talk)

    @rule(count=st.integers(1, 6), right=st.integers(0, 5), wrong=st.integers(0, 5))
    def step(self, count: int, right: int, wrong: int) -> None:
        """With guesses of which the first so many tokens are right."""

        def guess(talk: Talk) -> list[int]:
            begun = len(talk.answer)
            return [*talk.alone[begun : begun + right], *([9] * wrong)]

        for _ in range(count):
            self.now += 1
            for talk in self.machine.scheduler.late():
                assert talk.deadline is not None
                assert talk.deadline <= self.now
                self.machine.scheduler.remove(talk)
                self.here.remove(talk)
            for talk in self.machine.step(guess):
                assert talk.answer == talk.alone
                self.here.remove(talk)
                self.resting += [talk] if talk.is_kept else []

    @precondition(lambda self: self.here)
    @rule(data=st.data(), spoiled=st.booleans())
    def leave(self, data: st.DataObject, spoiled: bool) -> None:
        talk = data.draw(st.sampled_from(self.here))
        self.here.remove(talk)
        self.machine.scheduler.remove(talk, spoiled)

    @invariant()
    def every_block_is_accounted_for(self) -> None:
        scheduler = self.machine.scheduler
        blocks = scheduler.blocks
        owners = [0] * blocks.num_blocks
        for ticket in (*scheduler._running, *scheduler._room._held.values()):
            assert len(set(ticket.blocks)) == len(ticket.blocks)
            for block in ticket.blocks:
                owners[block] += 1
        assert blocks._owners == owners
        assert set(blocks._free) == {block for block, count in enumerate(owners) if count == 0}
        assert blocks.num_free + blocks.num_used == blocks.num_blocks
        assert {blocks._by_key[key]: key for key in blocks._by_key} == {
            block: key for block, key in enumerate(blocks._keys) if key is not None
        }

    @invariant()
    def nobody_holds_more_than_its_tokens_need(self) -> None:
        blocks = self.machine.scheduler.blocks
        for ticket in self.machine.scheduler._running:
            assert len(ticket.blocks) == blocks.needed(max(len(ticket.request.tokens) - 1, ticket.num_fed)) or (
                len(ticket.blocks) == blocks.needed(len(ticket.request.tokens))
            )

    @invariant()
    def everybody_is_somewhere(self) -> None:
        scheduler = self.machine.scheduler
        found = [ticket.request for ticket in (*scheduler._running, *scheduler._waiting)]
        assert len(found) == len(self.here)
        waited_for = {ticket.behind for ticket in scheduler._waiting}
        assert set(scheduler._room._held) <= {*self.resting, *waited_for}
        assert set(found) == set(self.here)
        assert scheduler.num_running <= 3
        assert all(ticket in scheduler._running for ticket in scheduler._room._coming.values())

    def teardown(self) -> None:
        while self.here:
            self.step(1, 0, 0)
        for talk in self.resting:
            self.machine.scheduler.let_go(talk)
        assert self.machine.scheduler.blocks.num_used == 0
        assert not self.machine.scheduler._room._coming


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_blocks_and_scheduler_load_without_torch() -> None:
    modules = "hanbit.engine.blocks, hanbit.engine.scheduler"
    subprocess.run([sys.executable, "-c", f"import sys, {modules}; assert 'torch' not in sys.modules"], check=True)

"""Where sequences go, held against what a plain list of events says, whatever order things happen in."""

from collections.abc import Hashable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from hanbit.server.batching.options import BatchOptions
from hanbit.server.batching.queue import QueueFull, Waiting
from hanbit.server.batching.sequences import NotBegun, SequenceOptions, Sequences

IDLE = 1000


def options(is_direct: bool, slots: int = 2, delay: int = 0, share: float = 0.0, most: int = 1024) -> SequenceOptions:
    batch = BatchOptions(max_rows=slots, is_dynamic=not is_direct, max_delay_ns=delay)
    return SequenceOptions(is_direct, slots, IDLE, batch, share, most)


def arrived(found: Sequences, id: Hashable, begins: bool = False, ends: bool = False, now: int = 0) -> Waiting:
    one = Waiting(shapes="same")
    found.arrive(id, one, begins, ends, now)
    return one


def ran(found: Sequences, instance: int = 0, now: int = 0) -> list[Waiting]:
    batch = list(found.choose(instance, now).batch)
    for one in batch:
        found.begin(one)
    for one in batch:
        found.ended(one, now)
    return batch


@pytest.mark.parametrize("is_direct", [True, False])
def test_requests_of_a_sequence_go_one_after_another(is_direct: bool) -> None:
    found = Sequences(1, options(is_direct))
    first, second = arrived(found, 7, begins=True), arrived(found, 7, ends=True)
    assert found.choose(0, 0).batch == (first,)
    found.begin(first)
    assert found.choose(0, 0).batch == ()  # the second waits for the first
    found.ended(first, 0)
    assert ran(found) == [second]
    assert found.num_sequences == 0


def test_a_sequence_must_begin() -> None:
    found = Sequences(1, options(True))
    with pytest.raises(NotBegun):
        arrived(found, 7)
    arrived(found, 7, begins=True, ends=True)
    with pytest.raises(NotBegun):
        arrived(found, 7)


def test_a_sequence_may_begin_again_before_its_end_has_been_computed() -> None:
    found = Sequences(1, options(True, slots=1))
    ones = [arrived(found, 7, True, True), arrived(found, 7, True), arrived(found, 7, False, True)]
    assert [ran(found)[0] for _ in ones] == ones
    assert found.num_sequences == 0


def test_sequences_without_a_place_wait_for_one() -> None:
    found = Sequences(1, options(True, slots=1))
    first, other = arrived(found, "a", begins=True), arrived(found, "b", begins=True)
    assert ran(found) == [first]
    assert ran(found) == []
    end = arrived(found, "a", ends=True)
    assert ran(found) == [end]
    assert ran(found) == [other]


def test_a_silent_sequence_loses_its_place() -> None:
    found = Sequences(1, options(True, slots=1))
    ran_first = arrived(found, "a", begins=True)
    assert ran(found) == [ran_first]
    other = arrived(found, "b", begins=True, now=10)
    assert found.next_end == IDLE
    found.expire(IDLE)
    assert ran(found, now=IDLE) == [other]
    with pytest.raises(NotBegun):
        arrived(found, "a", now=IDLE)


def test_slots_are_rows_that_stay() -> None:
    found = Sequences(1, options(True, slots=3))
    ones = [arrived(found, name, begins=True) for name in "abc"]
    assert [found.slot_of(one) for one in ones] == [0, 1, 2]
    assert ran(found) == ones
    last = arrived(found, "c")
    assert found.slot_of(last) == 2
    assert ran(found) == [last]
    assert ran(found) == []
    end = arrived(found, "b", ends=True)
    assert ran(found) == [end]
    assert found.slot_of(arrived(found, "d", begins=True)) == 1


def test_direct_waits_until_enough_of_its_sequences_are_ready() -> None:
    found = Sequences(1, options(True, slots=4, delay=100, share=1.0))
    one = arrived(found, "a", begins=True)
    other = arrived(found, "b", begins=True)
    assert found.choose(0, 0).batch == (one, other)  # both of two
    ran(found)
    again = arrived(found, "a", now=10)
    assert found.choose(0, 10).batch == ()
    assert found.choose(0, 10).again_at == 110
    assert found.choose(0, 110).batch == (again,)


def test_oldest_takes_what_has_waited_longest() -> None:
    found = Sequences(1, SequenceOptions(False, 8, IDLE, BatchOptions(max_rows=2, is_dynamic=True)))
    ones = [arrived(found, name, begins=True, now=now) for now, name in enumerate("abc")]
    assert ran(found, now=3) == ones[:2]
    later = arrived(found, "a", now=4)
    assert ran(found, now=5) == [ones[2], later]


def test_without_its_beginning_a_sequence_is_over() -> None:
    found = Sequences(1, options(True))
    first, second, again = arrived(found, 7, True), arrived(found, 7), arrived(found, 7, True)
    assert found.take(first)
    assert found.orphans == [second]
    assert ran(found) == [again]
    assert not found.take(again)


def test_as_many_wait_as_may() -> None:
    found = Sequences(1, options(True, most=2))
    arrived(found, 1, begins=True)
    arrived(found, 1)
    with pytest.raises(QueueFull):
        arrived(found, 1)


def test_an_instance_that_is_gone_takes_its_sequences_along() -> None:
    found = Sequences(2, options(True))
    one, other = arrived(found, "a", begins=True), arrived(found, "b", begins=True)
    found.begin(found.choose(0, 0).batch[0])
    waits = arrived(found, "a")
    assert found.drop(0) == [waits]
    found.ended(one, 0)  # its failure comes later
    with pytest.raises(NotBegun):
        arrived(found, "a")
    assert ran(found, 1) == [other]


class Anything(RuleBasedStateMachine):
    """The truth is a list of what came, by sequence; nothing of the class under test is asked for it."""

    is_direct = True
    ones = Bundle("ones")

    def __init__(self) -> None:
        super().__init__()
        self.found = Sequences(2, options(self.is_direct, slots=2, most=12))
        self.now = 0
        self.is_open: dict[int, bool] = {}
        self.came: dict[int, list[tuple[Waiting, bool, bool]]] = {}  # waiting, in order
        self.running: dict[int, tuple[int, int, Waiting, bool]] = {}  # by id: instance, since, who, ends
        self.place: dict[int, int] = {}  # instance, from the first computation to the end
        self.last: dict[int, int] = {}

    @rule(target=ones, id=st.integers(1, 6), begins=st.booleans(), ends=st.booleans())
    def arrives(self, id: int, begins: bool, ends: bool) -> tuple[int, Waiting]:
        self._silence()
        one = Waiting(shapes="same")
        is_full = sum(map(len, self.came.values())) >= 12
        if not begins and not self.is_open.get(id, False):
            with pytest.raises(NotBegun):
                self.found.arrive(id, one, begins, ends, self.now)
        elif is_full:
            with pytest.raises(QueueFull):
                self.found.arrive(id, one, begins, ends, self.now)
        else:
            self.found.arrive(id, one, begins, ends, self.now)
            self.came.setdefault(id, []).append((one, begins, ends))
            self.is_open[id], self.last[id] = not ends, self.now
        return id, one

    @rule(instance=st.integers(0, 1))
    def goes(self, instance: int) -> None:
        if any(place[0] == instance for place in self.running.values()):
            return
        batch = self.found.choose(instance, self.now).batch
        assert len(batch) <= 2
        for one in batch:
            id = next(id for id, waiting in self.came.items() if waiting and waiting[0][0] is one)
            assert id not in self.running
            assert self.place.setdefault(id, instance) == instance
            self.found.begin(one)
            _, _, ends = self.came[id].pop(0)
            self.running[id] = (instance, self.now, one, ends)

    @rule(instance=st.integers(0, 1))
    def is_done(self, instance: int) -> None:
        for id, (place, _, one, ends) in list(self.running.items()):
            if place == instance:
                self.found.ended(one, self.now)
                del self.running[id]
                self.last[id] = self.now
                if ends and not self.came.get(id):
                    self._over(id)

    @rule(who=ones)
    def leaves(self, who: tuple[int, Waiting]) -> None:
        id, one = who
        waiting = self.came.get(id, [])
        index = next((place for place, other in enumerate(waiting) if other[0] is one), None)
        assert self.found.take(one) == (index is not None)
        if index is None:
            return
        _, begins, _ = waiting.pop(index)
        gone = []
        if begins:
            while index < len(waiting) and not waiting[index][1]:
                gone.append(waiting.pop(index)[0])
            if index == len(waiting):
                self.is_open[id] = False
        assert self.found.orphans == gone
        self.found.orphans = []
        if not self.is_open[id] and not waiting and id not in self.running:
            self._over(id)

    @rule(time=st.integers(1, IDLE))
    def time_passes(self, time: int) -> None:
        self.now += time

    @rule()
    def expires(self) -> None:
        self._silence()
        self.found.expire(self.now)

    @invariant()
    def counts_are_right(self) -> None:
        waiting = [one for entries in self.came.values() for one, _, _ in entries]
        assert len(self.found) == len(waiting)
        assert set(self.found) == set(waiting)
        for instance in range(2):
            assert sum(place == instance for place in self.place.values()) <= 2

    def teardown(self) -> None:
        """Whoever waits gets an answer, if only time passes."""
        for _ in range(40):
            for instance in range(2):
                self.is_done(instance)
                self.goes(instance)
                self.is_done(instance)
            self.now += IDLE
            self.expires()
        assert len(self.found) == 0
        assert self.found.num_sequences == 0

    def _silence(self) -> None:
        """Who has been computed and was silent for so long is over."""
        for id in list(self.place):
            is_silent = not self.came.get(id) and id not in self.running
            if is_silent and self.last[id] + IDLE <= self.now:
                self._over(id)

    def _over(self, id: int) -> None:
        self.place.pop(id, None)
        self.is_open[id] = False


class AnythingOldest(Anything):
    is_direct = False


TestDirect = Anything.TestCase
TestOldest = AnythingOldest.TestCase
TestDirect.settings = TestOldest.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)

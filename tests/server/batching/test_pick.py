"""Who goes now and together, with a clock that is told what time it is."""

import random

import pytest

from hanbit.common.errors import RepositoryError
from hanbit.repository.config import parse_config
from hanbit.server.batching.options import MOST_WAITING, BatchOptions, QueuePolicy, batch_options, instance_places
from hanbit.server.batching.pick import Choice, choose
from hanbit.server.batching.queue import QueueFull, Waiting, WaitingQueue

MS = 1_000_000


def options(text: str, max_batch_size: int = 8) -> BatchOptions:
    return batch_options(parse_config(f'backend: "made" max_batch_size: {max_batch_size} {text}', "made"))


def queue_of(chosen: BatchOptions, *waiting: Waiting, now: int = 0) -> WaitingQueue:
    queue = WaitingQueue(chosen.levels)
    for one in waiting:
        queue.put(one, now)
    return queue


def rows(choice: Choice) -> list[int]:
    return [one.rows for one in choice.batch]


def test_without_dynamic_batching_each_goes_alone_in_order() -> None:
    chosen = options("")
    queue = queue_of(chosen, Waiting(1), Waiting(2), Waiting(3))
    found = []
    while queue:
        choice = choose(queue, chosen, 0)
        found.append(rows(choice))
        for one in choice.batch:
            queue.take(one)
    assert found == [[1], [2], [3]]
    assert choose(queue, chosen, 0) == Choice()


def test_what_waits_goes_together_as_far_as_the_batch_has_room() -> None:
    chosen = options("dynamic_batching {}")
    queue = queue_of(chosen, *(Waiting(count) for count in (3, 4, 2, 1)))
    assert rows(choose(queue, chosen, 0)) == [3, 4]


def test_shapes_that_differ_never_meet_and_nobody_overtakes() -> None:
    chosen = options("dynamic_batching {}")
    queue = queue_of(chosen, Waiting(1, "a"), Waiting(1, "a"), Waiting(1, "b"), Waiting(1, "a"))
    assert rows(choose(queue, chosen, 0)) == [1, 1]


def test_the_largest_preferred_size_goes_at_once() -> None:
    chosen = options("dynamic_batching { preferred_batch_size: [2, 4] max_queue_delay_microseconds: 1000 }")
    queue = queue_of(chosen, *(Waiting() for _ in range(5)))
    assert len(choose(queue, chosen, 0).batch) == 4
    queue = queue_of(chosen, *(Waiting() for _ in range(3)))
    assert len(choose(queue, chosen, 0).batch) == 2


def test_a_batch_of_no_preferred_size_waits_for_its_delay_and_no_longer() -> None:
    chosen = options("dynamic_batching { preferred_batch_size: [4] max_queue_delay_microseconds: 1000 }")
    queue = queue_of(chosen, Waiting(), Waiting(), now=5 * MS)
    queue.put(Waiting(), 5 * MS + 300)
    assert choose(queue, chosen, 5 * MS + 999_999) == Choice((), 6 * MS)
    assert len(choose(queue, chosen, 6 * MS).batch) == 3
    queue.put(Waiting(), 5 * MS + 400)
    assert len(choose(queue, chosen, 5 * MS + 500).batch) == 4


def test_waiting_for_more_ends_where_nobody_can_join() -> None:
    chosen = options("dynamic_batching { max_queue_delay_microseconds: 1000 }")
    assert choose(queue_of(chosen, Waiting(3)), chosen, 0) == Choice((), MS)
    assert rows(choose(queue_of(chosen, Waiting(3, "a"), Waiting(1, "b")), chosen, 0)) == [3]
    assert rows(choose(queue_of(chosen, Waiting(3), Waiting(6)), chosen, 0)) == [3]
    assert rows(choose(queue_of(chosen, Waiting(3), Waiting(5)), chosen, 0)) == [3, 5]


def test_levels_go_in_order_and_a_priority_that_is_none_is_the_usual_one() -> None:
    chosen = options("dynamic_batching { priority_levels: 3 default_priority_level: 2 }", 1)
    assert [chosen.level_of(priority) for priority in (0, 1, 2, 3, 4)] == [1, 0, 1, 2, 1]
    queue = queue_of(chosen, *(Waiting(1, None, level) for level in (2, 1, 0, 2, 0)))
    assert [one.level for one in queue] == [0, 0, 1, 2, 2]


POLICY = "default_timeout_microseconds: 1000 allow_timeout_override: true max_queue_size: 3"


def test_who_waits_too_long_is_refused_or_goes_behind() -> None:
    refusing = options(f"dynamic_batching {{ default_queue_policy {{ {POLICY} }} }}")
    one, shorter, longer = Waiting(), Waiting(may_wait_ns=MS // 2), Waiting(may_wait_ns=9 * MS)
    queue = queue_of(refusing, one, shorter, longer)
    assert queue.next_end == MS // 2
    assert queue.expired(MS // 2) == [shorter]
    assert queue.next_end == MS
    assert queue.expired(MS) == [one, longer]
    assert len(queue) == 0
    assert queue.next_end is None

    delaying = options(f"dynamic_batching {{ default_queue_policy {{ timeout_action: DELAY {POLICY} }} }}")
    late, fresh = Waiting(), Waiting()
    queue = queue_of(delaying, late)
    queue.put(fresh, MS - 1)
    assert queue.expired(MS) == []
    assert list(queue) == [fresh, late]


def test_a_request_may_not_shorten_its_wait_where_the_policy_does_not_say_so() -> None:
    queue = WaitingQueue([QueuePolicy(timeout_ns=MS)])
    one = Waiting(may_wait_ns=1)
    queue.put(one, 0)
    assert queue.expired(MS - 1) == []
    assert queue.expired(MS) == [one]


def test_each_level_is_bounded_by_its_policy_and_all_are_bounded() -> None:
    chosen = options(
        "dynamic_batching { priority_levels: 2 default_priority_level: 2 "
        "priority_queue_policy { key: 1 value { max_queue_size: 2 } } }"
    )
    queue = queue_of(chosen, Waiting(), Waiting())
    with pytest.raises(QueueFull, match="2 requests wait already"):
        queue.put(Waiting(), 0)
    for _ in range(MOST_WAITING):
        queue.put(Waiting(level=1), 0)
    with pytest.raises(QueueFull):
        queue.put(Waiting(level=1), 0)


def test_whoever_leaves_from_the_midst_is_no_longer_there() -> None:
    queue = WaitingQueue([QueuePolicy(timeout_ns=MS)])
    first, second, third = Waiting(), Waiting(), Waiting()
    for one in (first, second, third):
        queue.put(one, 0)
    assert queue.take(second)
    assert not queue.take(second)
    assert list(queue) == [first, third]
    assert queue.expired(MS) == [first, third]


def test_at_random_nobody_is_lost_nobody_overtakes_and_no_batch_is_too_large() -> None:
    chance = random.Random(0)
    levels = "priority_levels: 2 default_priority_level: 1"
    chosen = options(f"dynamic_batching {{ preferred_batch_size: [3, 6] max_queue_delay_microseconds: 2 {levels} }}")
    for _ in range(200):
        queue, now, came, went = WaitingQueue(chosen.levels), 0, [], []
        while len(went) < 40:
            now += chance.randrange(1500)
            if len(came) < 40 and chance.random() < 0.6:
                came.append(Waiting(chance.randint(1, 3), chance.choice("ab"), chance.randrange(2)))
                queue.put(came[-1], now)
            choice = choose(queue, chosen, now)
            assert sum(rows(choice)) <= chosen.max_rows
            assert len({one.shapes for one in choice.batch}) <= 1
            if queue and not choice.batch:
                assert choice.again_at is not None
                assert choice.again_at > now
            for one in choice.batch:
                assert queue.take(one)
                went.append(one)
        assert set(went) == set(came)
        for level in range(2):
            assert [one for one in went if one.level == level] == [one for one in came if one.level == level]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("dynamic_batching { preferred_batch_size: [16] }", "each is from 1 to max_batch_size, 8"),
        ("dynamic_batching { preferred_batch_size: [0] }", "each is from 1"),
        ("dynamic_batching { priority_levels: 2 }", "default_priority_level: 0 must be from 1 to priority_levels, 2"),
        ("dynamic_batching { priority_queue_policy { key: 3 value {} } }", "levels are from 1 to 1"),
    ],
)
def test_a_file_that_cannot_be_kept_is_refused(text: str, words: str) -> None:
    with pytest.raises(RepositoryError, match=words):
        options(text)


def test_instances_are_counted_and_placed_as_their_groups_say() -> None:
    def places(text: str, *gpus: int) -> list[tuple[str, int]]:
        found = instance_places(parse_config(f'name: "m" backend: "made" {text}', "made"), gpus)
        assert len({one.name for one in found}) == len(found)
        return [(one.kind, one.device) for one in found]

    assert places("") == [("KIND_CPU", 0)]
    assert places("instance_group { count: 2 kind: KIND_CPU }", 0) == [("KIND_CPU", 0)] * 2
    assert places("instance_group { count: 2 kind: KIND_GPU }", 0, 1) == [("KIND_GPU", n) for n in (0, 0, 1, 1)]
    assert places("instance_group { gpus: [1] }", 0, 1) == [("KIND_GPU", 1)]
    with pytest.raises(RepositoryError, match="this machine has none"):
        places("instance_group { kind: KIND_GPU }")
    with pytest.raises(RepositoryError, match="names GPU 3"):
        places("instance_group { kind: KIND_GPU gpus: [3] }", 0)
    with pytest.raises(RepositoryError, match="at most 256"):
        places("instance_group { count: 300 }")

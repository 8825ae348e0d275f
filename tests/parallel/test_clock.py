"""The clock of a step against times added up by hand."""

import torch

from hanbit.parallel.clock import Phase, StepClock

CPU = torch.device("cpu")


class Hands:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_an_inner_phase_takes_its_time_from_the_outer_one() -> None:
    hands = Hands()
    clock = StepClock(hands)
    clock.start(CPU)
    hands.now += 1
    with clock.phase(Phase.PIPELINE_IDLE):
        hands.now += 2
        with clock.phase(Phase.FORWARD_BACKWARD):
            hands.now += 4
            with clock.phase(Phase.COMMUNICATION):
                hands.now += 8
            hands.now += 16
        hands.now += 32
    with clock.phase(Phase.FORWARD_BACKWARD):
        hands.now += 64
    hands.now += 128
    found = clock.stop()
    assert found == {
        Phase.DATA: 0, Phase.FORWARD_BACKWARD: 4 + 16 + 64, Phase.COMMUNICATION: 8, Phase.PIPELINE_IDLE: 2 + 32,
        Phase.OPTIMIZER: 0, Phase.OTHER: 1 + 128,
    }  # fmt: skip
    assert sum(found.values()) == hands.now - 100


def test_a_standing_clock_counts_nothing() -> None:
    hands = Hands()
    clock = StepClock(hands)
    with clock.phase(Phase.COMMUNICATION):
        hands.now += 5
    clock.start(CPU)
    assert sum(clock.stop().values()) == 0


def test_a_step_that_failed_leaves_nothing_for_the_next() -> None:
    hands = Hands()
    clock = StepClock(hands)
    clock.start(CPU)
    try:
        with clock.phase(Phase.OPTIMIZER):
            raise ValueError
    except ValueError:
        hands.now += 7
    clock.start(CPU)
    hands.now += 3
    assert clock.stop()[Phase.OTHER] == 3


def test_spans_begin_and_last_as_their_phases_did_and_tell_what_they_worked_on() -> None:
    hands = Hands()
    clock = StepClock(hands)
    clock.record(CPU)
    hands.now += 1
    clock.start(CPU)
    with clock.phase(Phase.FORWARD_BACKWARD):
        hands.now += 2
        with clock.phase(Phase.FORWARD_BACKWARD, "forward", micro_batch=3):
            hands.now += 4
            with clock.phase(Phase.COMMUNICATION, "tensor.row_leave", bytes=64):
                hands.now += 8
    found = clock.stop()
    with clock.phase(Phase.OTHER, "checkpoint"):
        hands.now += 16
    assert sorted(clock.recorded(), key=lambda span: (span.start, -span.seconds, span.name == "forward_backward")) == [
        (Phase.OTHER, "step", 1, 14, {}),
        (Phase.FORWARD_BACKWARD, "forward_backward", 1, 14, {}),
        (Phase.FORWARD_BACKWARD, "forward", 3, 12, {"micro_batch": 3}),
        (Phase.COMMUNICATION, "tensor.row_leave", 7, 8, {"bytes": 64}),
        (Phase.OTHER, "checkpoint", 15, 16, {}),
    ]
    assert (found[Phase.FORWARD_BACKWARD], found[Phase.COMMUNICATION]) == (6, 8)
    assert clock.recorded() == []


def test_waiting_is_a_span_for_each_gap_between_passes() -> None:
    hands = Hands()
    clock = StepClock(hands)
    clock.record(CPU)
    clock.start(CPU)
    with clock.phase(Phase.PIPELINE_IDLE):
        hands.now += 1
        with clock.phase(Phase.FORWARD_BACKWARD, "forward"):
            hands.now += 2
        hands.now += 4
    clock.stop()
    waits = [(span.start, span.seconds) for span in clock.recorded() if span.phase is Phase.PIPELINE_IDLE]
    assert waits == [(0, 1), (3, 4)]


def test_without_a_recording_the_clock_keeps_no_mark_of_a_phase_in_itself() -> None:
    hands = Hands()
    moments = []

    def now() -> float:
        moments.append(hands.now)
        return hands.now

    clock = StepClock(now)
    clock.start(CPU)
    with clock.phase(Phase.DATA):
        for _ in range(5):
            with clock.phase(Phase.DATA, "again"):
                pass
    clock.stop()
    assert len(moments) == 4


def test_what_goes_on_beside_is_in_the_picture_and_in_no_phase() -> None:
    hands = Hands()
    clock = StepClock(hands)
    with clock.beside("data.shard_gather", bytes=1):  # nobody records
        hands.now += 1
    clock.record(CPU)
    clock.start(CPU)
    with clock.phase(Phase.FORWARD_BACKWARD):
        hands.now += 1
        with clock.beside("data.shard_gather", bytes=64):
            hands.now += 2
    found = clock.stop()
    assert found[Phase.FORWARD_BACKWARD] == sum(found.values()) == 3
    assert clock.recorded()[0] == (Phase.COMMUNICATION, "data.shard_gather", 1, 2, {"bytes": 64})

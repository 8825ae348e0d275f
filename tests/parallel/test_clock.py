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

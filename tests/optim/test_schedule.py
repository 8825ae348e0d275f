import pytest
import torch

from hanbit.optim.schedule import Schedule


def test_warm_up_rises_linearly_and_the_last_step_has_the_lowest() -> None:
    schedule = Schedule("cosine", 1.0, 0.1, warmup_steps=4, steps=20)
    assert [schedule.learning_rate(step) for step in (1, 2, 4)] == [0.25, 0.5, 1.0]
    assert schedule.learning_rate(20) == pytest.approx(0.1)
    assert schedule.learning_rate(12) == pytest.approx(0.55)  # half of the way down: the mean of highest and lowest


def test_cosine_equals_torchs_scheduler() -> None:
    schedule = Schedule("cosine", 3e-4, 3e-5, warmup_steps=0, steps=50)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3e-4)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50, eta_min=3e-5)
    for step in range(1, 51):
        optimizer.step()
        reference.step()
        assert schedule.learning_rate(step) == pytest.approx(reference.get_last_lr()[0], rel=1e-6)


def test_constant_stays_at_the_highest() -> None:
    schedule = Schedule("constant", 1e-3, 1e-4, warmup_steps=2, steps=10)
    assert [schedule.learning_rate(step) for step in (1, 2, 3, 10)] == [5e-4, 1e-3, 1e-3, 1e-3]

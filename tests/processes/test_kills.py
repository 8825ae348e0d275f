"""A few of the kills of `hanbit bench kills`, which deals thirty."""

from pathlib import Path

import pytest

from hanbit.bench.kills import prove


@pytest.mark.slow
def test_run_killed_at_random_moments_ends_bitwise_as_undisturbed(tmp_path: Path) -> None:
    outcome = prove(3, tmp_path, seed=1)
    assert outcome.kills == 3
    assert outcome.runs == outcome.equal > 0

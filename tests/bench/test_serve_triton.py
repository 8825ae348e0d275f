"""The server beside Triton: what the table says, and one short round of both where Triton is at hand."""

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hanbit.bench.serve_triton import INSIDE, OWN, TRITON, Plan, Row, measure
from hanbit.bench.triton import Triton
from hanbit.cli.bench import app
from hanbit.common.errors import ConfigError

PEER = os.environ.get("HANBIT_TRITON", "")


def test_ratios_are_of_the_same_round_and_beside_triton() -> None:
    row = Row("work", "ms", {TRITON: [1.0, 2.0, 4.0], OWN: [2.0, 2.0, 2.0], INSIDE: [0.5, 0.5, 0.5]})
    own, inside = row.facts()
    assert (own["models"], own["hanbit"], own["triton"]) == (OWN, 2.0, 2.0)
    assert (own["ratio"], own["lowest"], own["highest"]) == (1.0, 0.5, 2.0)
    assert inside["ratio"] == 0.25


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name a MODEL folder, or a peer"),
        (["--peer", "other"], "--peer 'other' must be triton"),
        (["--peer", "triton"], "needs --peer-path"),
        (["--peer", "triton", "--peer-path", "nowhere"], "no environment with nvidia-pytriton"),
        (["--peer", "triton", "--peer-path", "nowhere", "--requests", "0"], "--requests 0 must be at least 1"),
    ],
)
def test_what_cannot_be_measured_is_said_before_anything_starts(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(app, ["serve", *arguments])
    assert isinstance(result.exception, ConfigError)
    assert said in str(result.exception)


@pytest.mark.slow
@pytest.mark.skipif(not PEER, reason="HANBIT_TRITON names an environment with nvidia-pytriton")
def test_both_do_the_same_work() -> None:
    said: list[str] = []
    rows = measure(Plan(Triton(Path(PEER)), clients=(1, 2), requests=5, blocks=1, rounds=1), said.append)
    assert len(rows) == 2 * 2 * 2 + 2
    assert all(set(row.values) == {TRITON, OWN, INSIDE} for row in rows)
    assert all(value > 0 for row in rows for values in row.values.values() for value in values)
    assert len(said) == 6

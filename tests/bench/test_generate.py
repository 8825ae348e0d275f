"""The generation bench runs both contestants on the same prompts, and gives no ratio where their tokens differ."""

import sys
from pathlib import Path

import pytest

from hanbit.bench import generate
from hanbit.bench.generate import Plan, measure, table
from hanbit.bench.turns import Contestant
from hanbit.common.errors import LaunchError
from tests.engine.folders import write_folder

PEER = Path(__file__).parents[2] / "benchmarks/peers/hf_generate.py"


def test_both_contestants_say_the_same_tokens_and_get_a_row(tmp_path: Path) -> None:
    write_folder(tmp_path, "llama")
    plan = Plan(tmp_path, PEER, sys.executable, prompt_tokens=9, new_tokens=6, rounds=2, threads=1)
    contestants = measure(plan)
    assert [len(contestant.results) for contestant in contestants] == [18, 18]
    assert [len(contestant.seconds) for contestant in contestants] == [2, 2]
    ours, theirs = table(contestants, 6)
    assert ours["hanbit_over_it"] == 1
    assert theirs["name"] == "transformers"


def test_other_tokens_are_no_contest() -> None:
    contestants = [Contestant(name, [], {}, results=results) for name, results in (("a", [1, 2, 3]), ("b", [1, 2, 4]))]
    with pytest.raises(LaunchError, match="answer 1, token 0: hanbit says 3, transformers 4"):
        generate._check_same_tokens(contestants, 2)

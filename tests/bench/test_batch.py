"""The rates of a small model are rates, a shared beginning is found, a peer stands beside, and the time is kept."""

from pathlib import Path

import pytest

from hanbit.bench.batch import Measured, Plan, measure, table
from hanbit.bench.llama_cpp import BATCHED, LlamaCpp
from hanbit.common.errors import ConfigError
from tests.bench.llama_programs import write_program
from tests.engine.folders import write_folder

SMALL = {"sequences": (1, 3), "prompt_tokens": 8, "new_tokens": 4, "prefix_tokens": 40, "requests": 3}
ANSWER = "print(json.dumps({'speed': 2.0, 'speed_pp': 9.0, 'speed_tg': float(value('-npl'))}))"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("batch")
    write_folder(path, "llama")
    return path


def test_each_number_of_sequences_has_rates_and_the_shared_beginning_a_percentage(folder: Path) -> None:
    said: list[str] = []
    found = measure(Plan(folder, rounds=2, **SMALL), said.append)  # type: ignore[arg-type]
    assert [one.unit for one in found] == ["tok/s"] * 4 + ["% of the first's"]
    assert all(len(one.values) == 2 and min(one.values) > 0 for one in found)
    assert [line.partition(":")[0] for line in said] == ["round 1 of 2"] * 2 + ["round 2 of 2"] * 2


def test_no_round_is_begun_when_the_time_is_up(folder: Path) -> None:
    said: list[str] = []
    found = measure(Plan(folder, rounds=5, seconds=0.0, **SMALL), said.append)  # type: ignore[arg-type]
    assert all(len(one.values) == 1 for one in found)
    assert said[-1] == "0 s are up after 1 rounds of 5"


def test_a_peer_takes_turns_on_the_same_counts(folder: Path, tmp_path: Path) -> None:
    write_program(tmp_path, BATCHED, ANSWER)
    peer = LlamaCpp(tmp_path, 1)
    found = measure(Plan(folder, rounds=2, file=Path("a.gguf"), peer=peer, **SMALL), lambda _: None)  # type: ignore[arg-type]
    assert [one.theirs for one in found] == [[1.0, 1.0], [2.0, 2.0], [3.0, 3.0], [2.0, 2.0], []]
    with pytest.raises(ConfigError, match="llama-batched-bench is not a program"):
        measure(Plan(folder, file=Path("a.gguf"), peer=LlamaCpp(tmp_path / "no", 1)), pytest.fail)


def test_the_table_has_median_and_both_ends_and_the_ratio_beside_a_peer() -> None:
    (row,) = table([Measured("8 together", "tok/s", [30.0, 10.0, 20.0])])
    assert row == {"what": "8 together", "unit": "tok/s", "median": 20.0, "lowest": 10.0, "highest": 30.0}
    (row,) = table([Measured("8 together", "tok/s", [30.0, 10.0, 20.0], [10.0, 10.0, 10.0])])
    assert row["peer_median"] == 10.0
    ratios = [row[f"hanbit_over_it_{name}"] for name in ("median", "lowest", "highest")]
    assert ratios == [2.0, 1.0, 3.0]

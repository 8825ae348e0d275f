"""The rates of a small model are rates, and a shared beginning is found."""

from pathlib import Path

from hanbit.bench.batch import Measured, measure, table
from tests.engine.folders import write_folder


def test_each_number_of_sequences_has_a_rate_and_the_shared_beginning_a_percentage(tmp_path: Path) -> None:
    write_folder(tmp_path, "llama")
    found = measure(tmp_path, [1, 3], prompt_tokens=8, new_tokens=4, prefix_tokens=40, requests=3, rounds=2)
    assert [one.unit for one in found] == ["tok/s", "tok/s", "% of the first's"]
    assert all(len(one.values) == 2 and min(one.values) > 0 for one in found)


def test_the_table_has_median_and_both_ends() -> None:
    (row,) = table([Measured("8 together", "tok/s", [30.0, 10.0, 20.0])])
    assert row == {"what": "8 together", "unit": "tok/s", "median": 20.0, "lowest": 10.0, "highest": 30.0}

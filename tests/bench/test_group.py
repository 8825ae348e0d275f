"""A group's results are there one by one, and those that were there before it failed are not lost."""

from pathlib import Path

import pytest

from hanbit.bench.group import results_of
from hanbit.common.errors import LaunchError

WORKER = """\
import json, sys, time
from pathlib import Path
from hanbit.bench.group import add_result

jobs, results, seen = sys.argv[1:]
for job in json.loads(Path(jobs).read_text()):
    if job == "broken":
        raise SystemExit("cannot do it")
    add_result(results, job * 2)
    while not Path(seen).exists():
        time.sleep(0.01)
"""


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file without which the worker waits behind a job."""
    (tmp_path / "doubling_worker.py").write_text(WORKER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    return tmp_path / "seen"


def test_a_result_is_there_while_the_group_goes_on(tmp_path: Path, seen: Path) -> None:
    results = results_of(1, "doubling_worker", [1, "ab"], tmp_path, str(seen))
    assert next(results) == 2
    seen.touch()
    assert list(results) == ["abab"]


def test_what_was_found_before_a_failure_is_handed_out_first(tmp_path: Path, seen: Path) -> None:
    seen.touch()
    results = results_of(1, "doubling_worker", [3, "broken", 4], tmp_path, str(seen))
    assert next(results) == 6
    with pytest.raises(LaunchError, match="cannot do it"):
        next(results)

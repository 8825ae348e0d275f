"""Two journeys in one place: the second waits for the first and for all that it has started."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hanbit.common.errors import ConfigError
from hanbit.demo.alone import alone

JOURNEY = """
import sys, time
from pathlib import Path
from hanbit.demo.alone import alone
from hanbit.demo.child import Child
code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('at work', flush=True); time.sleep(4)"
with alone(Path(sys.argv[1]), print) as lock:
    child = Child(("python", "-c", code), Path(sys.argv[1] + ".log"), lambda line: print(line, flush=True), [lock])
    child.wait()
"""


def test_the_next_waits_for_what_a_killed_journey_has_left_to_finish(tmp_path: Path) -> None:
    first = subprocess.Popen([sys.executable, "-c", JOURNEY, str(tmp_path / "lock")], stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    assert first.stdout.readline() == "at work\n"
    first.send_signal(signal.SIGKILL)
    first.wait()
    said: list[str] = []
    began = time.monotonic()
    with alone(tmp_path / "lock", said.append, 30):
        assert time.monotonic() - began > 0.5  # the child sleeps for four seconds after its line
    assert len(said) == 1
    assert f"(process {first.pid}) has not ended" in said[0]


def test_a_journey_that_goes_on_keeps_others_out_with_one_line(tmp_path: Path) -> None:
    with (
        alone(tmp_path / "lock", print),
        pytest.raises(ConfigError, match="is in use by another demo"),
        alone(tmp_path / "lock", lambda line: None, 0),
    ):
        pass


def test_the_place_is_free_afterwards(tmp_path: Path) -> None:
    said: list[str] = []
    for _ in range(2):
        with alone(tmp_path / "lock", said.append, 0):
            pass
    assert said == []

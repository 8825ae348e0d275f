"""When the kernels are used, and what is said when they are not."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hanbit.cli.doctor import native_kernels
from hanbit.common.errors import ConfigError
from hanbit.kernels import build, library


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Answers are kept for the life of a process."""
    forget()
    yield
    forget()


def forget() -> None:
    library.native.cache_clear()
    library.why_not.cache_clear()


def test_missing_library_is_said_with_the_way_to_build_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(library, "LIBRARY", tmp_path / "native.so")
    assert library.native() is None
    assert library.why_not() == "not built; python -m hanbit.kernels.build builds it, with a C++ compiler"


def test_damaged_library_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "native.so").write_bytes(b"no library")
    monkeypatch.setattr(library, "LIBRARY", tmp_path / "native.so")
    assert library.native() is None
    assert library.why_not().startswith("cannot be loaded: ")


def test_library_of_other_sources_is_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr(library, "LIBRARY", request.getfixturevalue("library"))
    assert library.native() is not None
    forget()
    for path in build.SOURCES.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with (tmp_path / "kernels.h").open("a") as file:
        file.write("// changed\n")
    monkeypatch.setattr(build, "SOURCES", tmp_path)
    assert library.native() is None
    assert library.why_not().startswith("built from other sources")


def test_environment_turns_them_off_or_asks_for_a_set(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr(library, "LIBRARY", request.getfixturevalue("library"))
    monkeypatch.setenv("HANBIT_NATIVE", "0")
    assert library.native() is None
    assert library.why_not() == "turned off by HANBIT_NATIVE=0"
    forget()
    monkeypatch.setenv("HANBIT_NATIVE", "sse9")
    with pytest.raises(ConfigError, match=r"HANBIT_NATIVE=sse9 is not here: this processor has .*0 for PyTorch alone"):
        library.native()


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("false", "ended with 1"),
        ("no-such-compiler", "no-such-compiler cannot be run"),
        ("true", "ended well and made nothing"),
        ("g++ '-O2", "is no command .*Give a compiler"),
    ],
)
def test_compiler_that_refuses_leaves_no_library(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str, says: str
) -> None:
    monkeypatch.setenv("CXX", command)
    with pytest.raises(build.BuildError, match=says):
        build.build(tmp_path / "native.so")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_build_has_left_is_removed_by_the_next(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = tmp_path / "compiler"
    compiler.write_text("#!/bin/sh\nexec sleep 60\n")
    compiler.chmod(0o755)
    made = tmp_path / "made"
    script = "import pathlib, sys; from hanbit.kernels import build; build.build(pathlib.Path(sys.argv[1]))"
    made.mkdir()
    environment = {**os.environ, "CXX": str(compiler)}
    killed = subprocess.Popen(
        [sys.executable, "-c", script, made / "native.so"], env=environment, start_new_session=True
    )
    while not list(made.iterdir()):
        assert killed.poll() is None
        time.sleep(0.01)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert len(list(made.iterdir())) == 1, "nobody was left to remove it"
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(build.BuildError):
        build.build(made / "native.so")
    assert list(made.iterdir()) == []


def test_doctor_says_what_is_wrong_with_the_environment(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr(library, "LIBRARY", request.getfixturevalue("library"))
    monkeypatch.setenv("HANBIT_NATIVE", "sse9")
    assert native_kernels().startswith("none: HANBIT_NATIVE=sse9 is not here: this processor has ")


def test_folder_that_takes_no_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        build.BuildError, match=r"absent/native\.so cannot be written: No such file .*Build as its owner"
    ):
        build.build(tmp_path / "absent" / "native.so")


def test_build_that_fails_says_so_in_one_line() -> None:
    environment = {**os.environ, "CXX": "no-such-compiler"}
    command = [sys.executable, "-m", "hanbit.kernels.build"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("error: no-such-compiler cannot be run")


def test_set_whose_name_is_no_text_is_refused(request: pytest.FixtureRequest) -> None:
    with pytest.raises(ConfigError, match=r"HANBIT_NATIVE=\\udcff is not here"):
        library.load(request.getfixturevalue("library"), "\udcff")

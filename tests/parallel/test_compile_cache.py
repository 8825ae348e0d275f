"""What is removed of inductor's cache before a compilation, and that a run compiles after a kill."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils._filelock import FileLock

from hanbit.parallel.compile_cache import remove_unfinished_libraries

COMPILE = """
import torch
from hanbit.parallel.compile_cache import remove_unfinished_libraries
remove_unfinished_libraries()
print(torch.compile(lambda x: torch.sin(x) + 1)(torch.zeros(8)).sum().item())
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    (tmp_path / "ab").mkdir()
    return tmp_path


def test_only_empty_libraries_that_nobody_is_making_are_removed(cache: Path) -> None:
    for name, content in {
        "killed.main.so": b"",
        "whole.main.so": b"\x7fELF",
        "made.main.so": b"",
        "k.cpp": b"",
    }.items():
        (cache / "ab" / name).write_bytes(content)
    (cache / "locks").mkdir()
    with FileLock(cache / "locks/made.lock"):  # torch's own lock
        remove_unfinished_libraries()
    assert sorted(path.name for path in (cache / "ab").iterdir()) == ["k.cpp", "made.main.so", "whole.main.so"]


def test_a_cache_that_is_not_there_yet_is_no_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "none"))
    remove_unfinished_libraries()


@pytest.mark.slow
def test_torch_compiles_again_where_a_kill_left_an_empty_library(cache: Path) -> None:
    def compiled() -> str:
        return subprocess.run(
            [sys.executable, "-c", COMPILE], capture_output=True, text=True, check=True, env=dict(os.environ)
        ).stdout

    assert compiled() == "8.0\n"
    (library,) = cache.glob("*/*.main.so")
    library.write_bytes(b"")
    assert compiled() == "8.0\n"
    assert library.stat().st_size > 0

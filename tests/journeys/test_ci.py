"""Which slow tests continuous integration chooses: in a branch, in a clone without a remote, in a plain copy."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.journeys.pages import ROOT


def git(folder: Path, *arguments: str) -> None:
    names = ["-c", "user.name=A", "-c", "user.email=a@b.example", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", *names, *arguments], cwd=folder, check=True, capture_output=True)


def commit(folder: Path, *files: str) -> None:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(file)
    git(folder, "add", "--all")
    git(folder, "commit", "--message", "Change")


def chosen(folder: Path) -> list[str]:
    done = subprocess.run([folder / "scripts/slow-tests"], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A project of a few folders, without history."""
    folder = tmp_path / "project"
    for name in ("journeys", "server", "parallel", "processes", "pairs", "cli"):
        (folder / "tests" / name).mkdir(parents=True)
        (folder / "tests" / name / "test_one.py").touch()
    (folder / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/slow-tests", folder / "scripts")
    return folder


@pytest.fixture
def clone(copy: Path) -> Path:
    git(copy, "init")
    commit(copy, "README.md")
    folder = copy.parent / "clone"
    git(copy.parent, "clone", str(copy), str(folder))
    return folder


def test_without_history_the_journeys_are_chosen(copy: Path) -> None:
    assert chosen(copy) == ["tests/journeys"]


def test_without_a_remote_the_journeys_are_chosen(clone: Path) -> None:
    commit(clone, "hanbit/server/app.py")
    git(clone, "remote", "remove", "origin")
    assert chosen(clone) == ["tests/journeys"]


def test_a_branch_adds_the_folders_that_it_has_changed(clone: Path, copy: Path) -> None:
    assert chosen(clone) == ["tests/journeys"]
    commit(copy, "hanbit/cli/main.py")  # somebody else's, after the branch left
    git(clone, "fetch")
    commit(clone, "hanbit/server/app.py", "hanbit/recipes/demo.yaml", "docs/serving.md", "pyproject.toml")
    assert chosen(clone) == ["tests/journeys", "tests/server"]


def test_what_many_processes_compute_brings_their_tests(clone: Path) -> None:
    commit(clone, "hanbit/parallel/grid.py")
    assert chosen(clone) == ["tests/journeys", "tests/pairs", "tests/parallel", "tests/processes"]


def test_the_script_of_continuous_integration_sets_up_checks_and_tests() -> None:
    lines = (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()
    made = [line.removeprefix("make ") for line in lines if line.startswith("make ")]
    assert made == ["setup", "check", "test", "test-proof"]

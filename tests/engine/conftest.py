"""Model folders, each written once in a session when it is first asked for."""

from collections.abc import Callable
from pathlib import Path

import pytest

from hanbit.engine.llm import LLM
from tests.engine.folders import write_folder

Folder = Callable[[str], Path]


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp("model")
            write_folder(made[name], name)
        return made[name]

    return folder


@pytest.fixture(scope="session")
def folder(folder_of: Folder) -> Path:
    return folder_of("llama")


@pytest.fixture(scope="session")
def llm(folder: Path) -> LLM:
    return LLM(folder, device="cpu")

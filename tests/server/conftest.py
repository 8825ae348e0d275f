"""One repository and one server for the tests that only ask."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hanbit.engine.llm import LLM
from hanbit.repository.deploy import deploy
from tests.engine.test_adapters import write_adapter
from tests.server.served import Served, serving, write_long_folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_long_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def adapter_folder(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    write_adapter(model_folder, folder, 1, ["q_proj", "up_proj"])
    return folder


@pytest.fixture(scope="session")
def repository(model_folder: Path, adapter_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    deploy(model_folder, "small", folder, {"tuned": adapter_folder})
    return folder


@pytest.fixture(scope="session")
def served(repository: Path) -> Iterator[Served]:
    with serving(repository) as found:
        yield found


@pytest.fixture(scope="session")
def llm(model_folder: Path, adapter_folder: Path) -> LLM:
    """The same folder without a server."""
    found = LLM(model_folder, device="cpu")
    found.add_adapter("tuned", adapter_folder)
    return found

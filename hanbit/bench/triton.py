"""The real Triton as a peer: from the wheel `nvidia-pytriton` in an environment of its own, CPU only, Python models.

The wheel has the server and, apart, the Python back end's program for each version of Python; the two are put together
in a temporary folder, and the environment is not changed.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hanbit.bench.servers import Addresses, free_ports, running
from hanbit.common.errors import ConfigError

HOW = (
    "Make one with `python3 -m venv DIR; DIR/bin/pip install nvidia-pytriton 'numpy<2'`, and name DIR with --peer-path"
)


@dataclass(frozen=True)
class Triton:
    """`environment`: a virtual environment that has nvidia-pytriton. Raises ConfigError if it has not."""

    environment: Path

    def __post_init__(self) -> None:
        for path in (self._server / "bin/tritonserver", self._stub, self.environment / "bin/python"):
            if not path.exists():
                raise ConfigError(f"{path} is missing: no environment with nvidia-pytriton. {HOW}")

    @contextlib.contextmanager
    def serving(self, repository: Path, *flags: str) -> Iterator[Addresses]:
        """Triton over `repository`, all of whose models are loaded, until the block ends. Raises LaunchError."""
        with tempfile.TemporaryDirectory(prefix="hanbit-triton-") as folder:
            scratch = Path(folder)
            http, grpc, metrics = free_ports(3)
            command = [
                str(self._server / "bin/tritonserver"), f"--model-repository={repository}",
                f"--backend-directory={self._backends(scratch)}", "--http-address=127.0.0.1",
                "--grpc-address=127.0.0.1", "--metrics-address=127.0.0.1", f"--http-port={http}",
                f"--grpc-port={grpc}", f"--metrics-port={metrics}", "--model-control-mode=explicit",
                "--load-model=*", f"--trace-config=triton,file={folder}/trace.json", "--trace-config=rate=1", *flags,
            ]  # fmt: skip
            with running(command, self._surroundings(), scratch / "log", http, grpc) as addresses:
                yield addresses

    def _surroundings(self) -> dict[str, str]:
        """Triton takes the `python3` that it finds first for its models; the copied program its libraries by path."""
        libraries = self._server.parents[1] / "nvidia_pytriton.libs"
        return {
            **os.environ,
            "PATH": f"{self.environment.resolve() / 'bin'}:{os.environ.get('PATH', '')}",
            "LD_LIBRARY_PATH": f"{libraries}:{os.environ.get('LD_LIBRARY_PATH', '')}".rstrip(":"),
        }

    def _backends(self, scratch: Path) -> Path:
        """The wheel's back ends with the program of the environment's Python among them."""
        made = scratch / "backends"
        shutil.copytree(self._server / "backends/python", made / "python")
        shutil.copy2(self._stub, made / "python/triton_python_backend_stub")
        return made

    @property
    def _server(self) -> Path:
        found = sorted(self.environment.glob("lib/python3.*/site-packages/pytriton/tritonserver"))
        return found[-1].resolve() if found else self.environment / "site-packages/pytriton/tritonserver"

    @property
    def _stub(self) -> Path:
        version = self._server.parents[2].name.removeprefix("python")
        return self._server / "python_backend_stubs" / version / "triton_python_backend_stub"

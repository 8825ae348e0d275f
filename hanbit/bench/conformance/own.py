"""Hanbit's own server over the suite's repository, with everything that the suite asks for switched on."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hanbit.bench.conformance.processes import Addresses, free_ports, running


@contextlib.contextmanager
def serving(repository: Path, *flags: str) -> Iterator[Addresses]:
    """Until the block ends. Raises LaunchError."""
    with tempfile.TemporaryDirectory(prefix="hanbit-conformance-") as folder:
        http, grpc = free_ports(2)
        command = [
            sys.executable, "-m", "hanbit", "serve", f"--model-repository={repository}", f"--http-port={http}",
            f"--grpc-port={grpc}", "--model-control-mode=explicit", "--load-model=*", "--allow-client-shm=true",
            "--allow-client-files=true",
            f"--trace-config=triton,file={folder}/trace.json", "--trace-config=rate=1", *flags,
        ]  # fmt: skip
        with running(command, os.environ, Path(folder) / "log", http, grpc) as addresses:
            yield addresses

"""Hanbit's own server over the suite's repository, with everything that the suite asks for switched on."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hanbit.bench.servers import Addresses, hanbit_serving


@contextlib.contextmanager
def serving(repository: Path, *flags: str) -> Iterator[Addresses]:
    """Until the block ends. Raises LaunchError."""
    with tempfile.TemporaryDirectory(prefix="hanbit-conformance-") as folder:
        asked_for = (
            "--model-control-mode=explicit", "--load-model=*", "--allow-client-shm=true", "--allow-client-files=true",
            f"--trace-config=triton,file={folder}/trace.json", "--trace-config=rate=1",
        )  # fmt: skip
        with hanbit_serving(repository, Path(folder) / "log", *asked_for, *flags) as addresses:
            yield addresses

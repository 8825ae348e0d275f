"""What is to be run, and on how many processes of how many nodes."""

import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from hanbit.common.errors import ConfigError


@dataclass(frozen=True)
class Job:
    """`arguments`: of hanbit itself, for instance ("train", "demo"). `address`: "host:port" of node 0."""

    arguments: tuple[str, ...]
    processes: int
    log_folder: Path
    nodes: int = 1
    node_rank: int = 0
    address: str | None = None
    max_restarts: int = 0

    def __post_init__(self) -> None:
        if not self.arguments:
            raise ConfigError("nothing to launch. Name a verb, for instance: hanbit launch --processes 4 train demo")
        if self.processes < 1:
            raise ConfigError(f"--processes {self.processes} must be 1 or more")
        if not 0 <= self.node_rank < self.nodes:
            raise ConfigError(f"--node-rank {self.node_rank} must be from 0 to {self.nodes - 1} (--nodes {self.nodes})")
        if self.nodes > 1 and self.address is None:
            raise ConfigError(f"--nodes {self.nodes} needs --address HOST:PORT of node 0, the same on every node")

    def command(self) -> list[str]:
        """The torchrun command line of this node."""
        host, port = self._meeting_place()
        torchrun = [sys.executable, "-m", "torch.distributed.run"]
        return [
            *torchrun,
            f"--nproc-per-node={self.processes}",
            f"--nnodes={self.nodes}",
            f"--node-rank={self.node_rank}",
            f"--master-addr={host}",
            f"--master-port={port}",
            f"--max-restarts={self.max_restarts}",
            f"--log-dir={self.log_folder}",
            "--redirects=3",  # each rank's stdout and stderr into files ...
            "--tee=0:3",  # ... and rank 0's to the terminal too
            "-m",
            "hanbit",
            *self.arguments,
        ]

    def environment(self) -> dict[str, str]:
        """Threads are shared out, unless the user has said how many."""
        threads = max(1, (os.cpu_count() or 1) // self.processes)
        return {"OMP_NUM_THREADS": str(threads), "HANBIT_LAUNCHED": "1", **os.environ}

    def _meeting_place(self) -> tuple[str, str]:
        """One node meets on loopback, at a port that is free now."""
        if self.address is None:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                return "127.0.0.1", str(probe.getsockname()[1])
        host, _, port = self.address.rpartition(":")
        if not host or not port.isdigit():
            raise ConfigError(f"--address {self.address!r} must be HOST:PORT, for instance 10.0.0.1:29500")
        return host, port

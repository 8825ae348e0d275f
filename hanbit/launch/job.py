"""What is to be run, and on how many processes of how many nodes."""

import os
import shlex
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from hanbit.common.errors import ConfigError

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Job:
    """`arguments`: of hanbit itself, for instance ("train", "demo"). `address`: "host:port" of node 0.

    `log_folder`: for this launch alone, so that what is found in it is of this launch.
    """

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
        if self.max_restarts < 0:
            raise ConfigError(f"--max-restarts {self.max_restarts} must be 0 or more")

    @property
    def size(self) -> int:
        """Processes of all nodes."""
        return self.processes * self.nodes

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
            "--tee=0:3",  # ... and the first rank's to the terminal too
            "-m",
            "hanbit",
            *self.arguments,
        ]

    def settings(self) -> dict[str, str]:
        """The environment variables that matter, each as the user has set it or as we do."""
        chosen = {"OMP_NUM_THREADS": str(max(1, usable_cores() // self.processes))}
        if self.address is None:  # gloo would listen where the host's name leads, which may be a public address
            chosen["GLOO_SOCKET_IFNAME"] = "lo" if sys.platform == "linux" else "lo0"
        return {key: os.environ.get(key, value) for key, value in chosen.items()}

    def as_shell_line(self) -> str:
        variables = [f"{key}={shlex.quote(value)}" for key, value in self.settings().items()]
        return " ".join([*variables, shlex.join(self.command())])

    def _meeting_place(self) -> tuple[str, str]:
        """One node meets on loopback, at a port that is free now."""
        if self.address is None:
            with socket.socket() as probe:
                probe.bind((LOOPBACK, 0))
                return LOOPBACK, str(probe.getsockname()[1])
        host, _, port = self.address.rpartition(":")
        if not host or not port.isdigit():
            raise ConfigError(f"--address {self.address!r} must be HOST:PORT, for instance 10.0.0.1:29500")
        return host, port


def usable_cores() -> int:
    """Of this process; a container or taskset may allow fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

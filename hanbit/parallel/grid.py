"""The grid of processes: pipeline x data x tensor, tensor the fastest, so that its peers are neighbours.

Every process belongs to one group per axis. An axis of size 1 has no group and no collective ever runs on it;
one process alone needs no process group at all.
"""

import datetime
import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from hanbit.common.environment import number_of
from hanbit.common.errors import ConfigError
from hanbit.common.log import rank

AXES = ("pipeline", "data", "tensor")


@dataclass(frozen=True)
class Axis:
    """One axis as this process sees it: its size, our place on it, and the group of our peers."""

    name: str
    size: int = 1
    rank: int = 0
    group: dist.ProcessGroup | None = None

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def is_last(self) -> bool:
        return self.rank == self.size - 1


@dataclass(frozen=True)
class Grid:
    """`ends` joins the first and the last pipeline stage of our column, for weights that both hold."""

    device: torch.device
    pipeline: Axis
    data: Axis
    tensor: Axis
    mesh: DeviceMesh | None = None
    ends: Axis = Axis("ends")

    @property
    def size(self) -> int:
        return self.pipeline.size * self.data.size * self.tensor.size

    @property
    def rank(self) -> int:
        return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes torchrun started; 1 outside of torchrun."""
    return number_of("WORLD_SIZE", 1, at_least=1)


def start_processes(device: torch.device, timeout_seconds: float = 600) -> None:
    """Join the process group that torchrun's environment describes; nothing to do for one process alone.

    Raises ConfigError where that environment is not whole.
    """
    if world_size() == 1 or dist.is_initialized():
        return
    _check_environment()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=datetime.timedelta(seconds=timeout_seconds))


def _check_environment() -> None:
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise ConfigError(
            f"environment WORLD_SIZE={world_size()} without {' and '.join(missing)}: the processes cannot meet. Start "
            "them by torchrun or `hanbit launch`, or unset WORLD_SIZE for one process alone"
        )
    if rank() >= world_size():
        raise ConfigError(f"environment RANK={rank()} must be less than WORLD_SIZE={world_size()}")


def stop_processes() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def choose_device(wanted: str) -> torch.device:
    """`auto`: the GPU of our local rank where there is one, else the CPU.

    Raises ConfigError, on all processes of this machine alike, where there is no GPU or not one for each.
    """
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError(
            f"training.device={wanted}, but torch {torch.__version__} finds no CUDA device here. Use cpu or auto; "
            "`hanbit doctor` says what this machine has"
        )
    local_rank = number_of("LOCAL_RANK", 0)
    here, count = max(local_rank + 1, number_of("LOCAL_WORLD_SIZE", 1)), torch.cuda.device_count()
    if here > count:
        raise ConfigError(
            f"{here} processes were started on this machine and torch sees {count} CUDA device(s); each needs its own. "
            f"Start at most {count} here, let CUDA_VISIBLE_DEVICES name more, or use training.device=cpu"
        )
    return torch.device("cuda", local_rank)


def make_grid(pipeline: int, data: int, tensor: int, device: torch.device) -> Grid:
    """Arrange the running processes; their number must be pipeline x data x tensor (the resolver has checked it)."""
    if pipeline * data * tensor == 1:
        return Grid(device, Axis("pipeline"), Axis("data"), Axis("tensor"))
    mesh = init_device_mesh(device.type, (pipeline, data, tensor), mesh_dim_names=AXES)
    stages, replicas, slices = (_axis_of(mesh, name) for name in AXES)
    return Grid(device, stages, replicas, slices, mesh=mesh, ends=_ends_of(mesh, stages))


def _axis_of(mesh: DeviceMesh, name: str) -> Axis:
    size = mesh.size(AXES.index(name))
    return Axis(name, size, mesh.get_local_rank(name), mesh.get_group(name) if size > 1 else None)


def _ends_of(mesh: DeviceMesh, pipeline: Axis) -> Axis:
    """Groups are made by all processes together, in the same order, whether they belong to them or not."""
    if pipeline.size == 1:
        return Axis("ends")
    mine = Axis("ends")
    columns = mesh.mesh.reshape(pipeline.size, -1).T.tolist()  # [data x tensor, pipeline]
    for column in columns:
        pair = [column[0], column[-1]]
        group = dist.new_group(pair)
        if dist.get_rank() in pair:
            mine = Axis("ends", 2, pair.index(dist.get_rank()), group)
    return mine

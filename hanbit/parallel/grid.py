"""The grid of processes: pipeline x data x context x tensor, tensor the fastest, so that its peers are neighbours.

Every process belongs to one group per axis. Data and context together are the replicas: they hold the same weights and
see other tokens, other sequences along data, other parts of the same sequences along context. Expert peers are
neighbours along data that share out a layer's experts; who holds the same ones are the expert replicas. An axis of size
1 has no group and no collective ever runs on it; one process alone needs no process group at all.
"""

import datetime
import gc
import math
import os
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from hanbit.common.environment import number_of
from hanbit.common.errors import ConfigError
from hanbit.common.log import rank

AXES = ("pipeline", "replicas", "tensor")


@dataclass(frozen=True)
class Axis:
    """One axis as this process sees it: its size, our place on it, and the group of our peers.

    splits_sequence: between tensor-parallel regions each process of the axis holds its own part of the sequence only.
    """

    name: str
    size: int = 1
    rank: int = 0
    group: dist.ProcessGroup | None = None
    splits_sequence: bool = False

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def is_last(self) -> bool:
        return self.rank == self.size - 1


ALONE = Axis("context")


@dataclass(frozen=True)
class Grid:
    """`ends` joins the first and the last pipeline stage of our column, for weights that both hold.

    `replica_group`: the peers along data and context together.
    """

    device: torch.device
    pipeline: Axis
    data: Axis
    tensor: Axis
    mesh: DeviceMesh | None = None
    ends: Axis = Axis("ends")
    context: Axis = ALONE
    replica_group: dist.ProcessGroup | None = None
    expert: Axis = Axis("expert")
    expert_replica_group: dist.ProcessGroup | None = None

    @property
    def expert_replicas(self) -> Axis:
        """Those of the replicas that hold the same experts as we do."""
        every = self.replicas
        if self.expert.size == 1:
            return every
        size = every.size // self.expert.size
        return Axis("expert_replicas", size, every.rank // self.expert.size, self.expert_replica_group)

    @property
    def replicas(self) -> Axis:
        """Data and context as one axis, over which gradients are summed and FSDP2 shards."""
        data, context = self.data, self.context
        rank = data.rank * context.size + context.rank
        return Axis("replicas", data.size * context.size, rank, self.replica_group)

    @property
    def size(self) -> int:
        return self.pipeline.size * self.replicas.size * self.tensor.size

    @property
    def sequence_parts(self) -> int:
        """What a sequence's length must be a multiple of: context peers take two parts each, tensor peers share it."""
        by_context = 2 * self.context.size if self.context.size > 1 else 1
        return math.lcm(by_context, self.context.size * self._tensor_parts)

    def time_of_part(self, time: int) -> int:
        """Tokens of a sequence of `time` that a process holds between tensor-parallel regions."""
        return time // (self.context.size * self._tensor_parts)

    @property
    def _tensor_parts(self) -> int:
        return self.tensor.size if self.tensor.splits_sequence else 1

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


def leave_groups() -> None:
    """Close all groups but that of everybody, of grids that nobody uses any more. Called by all processes alike.

    Each of gloo's keeps a thread that wakes a hundred times a second: those of thirty grids take a core.
    """
    if not dist.is_initialized():
        return
    dist.barrier()
    gc.collect()  # what holds a group may hold itself
    for group in [group for group in dist.distributed_c10d._world.pg_map if group is not dist.group.WORLD]:
        dist.destroy_process_group(group)
    gc.collect()


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


def make_grid(
    pipeline: int,
    data: int,
    tensor: int,
    device: torch.device,
    context: int = 1,
    sequence: bool = False,
    expert: int = 1,
) -> Grid:
    """Arrange the running processes; their number must be pipeline x data x context x tensor (the resolver checked it).

    sequence: the tensor axis splits the sequence between its regions.
    """
    if pipeline * data * context * tensor == 1:
        return Grid(device, Axis("pipeline"), Axis("data"), Axis("tensor"))
    mesh = init_device_mesh(device.type, (pipeline, data * context, tensor), mesh_dim_names=AXES)
    stages, replicas, slices = (_axis_of(mesh, name) for name in AXES)
    return Grid(
        device,
        stages,
        Axis("data", data, replicas.rank // context),
        replace(slices, splits_sequence=sequence and tensor > 1),
        mesh=mesh,
        ends=_ends_of(mesh, stages),
        context=_neighbours(mesh, "context", context),
        replica_group=replicas.group,
        expert=_neighbours(mesh, "expert", expert),
        expert_replica_group=_expert_replicas_of(mesh, expert),
    )


def _axis_of(mesh: DeviceMesh, name: str) -> Axis:
    size = mesh.size(AXES.index(name))
    return Axis(name, size, mesh.get_local_rank(name), mesh.get_group(name) if size > 1 else None)


def _neighbours(mesh: DeviceMesh, name: str, size: int) -> Axis:
    """Neighbours along the replicas, `size` of them in a row."""
    if size == 1:
        return Axis(name)
    pipeline, replicas, tensor = mesh.mesh.shape
    rows = mesh.mesh.reshape(pipeline * replicas // size, size, tensor).transpose(1, 2).reshape(-1, size)
    peers, group = _group_of_ours(rows.tolist())
    return Axis(name, size, peers.index(dist.get_rank()), group)


def _expert_replicas_of(mesh: DeviceMesh, expert: int) -> dist.ProcessGroup | None:
    """Every `expert`-th along the replicas; None where experts are not shared out, or each is held once."""
    pipeline, replicas, tensor = mesh.mesh.shape
    if expert == 1 or replicas == expert:
        return None
    rows = mesh.mesh.reshape(pipeline, replicas // expert, expert, tensor).permute(0, 2, 3, 1)
    return _group_of_ours(rows.reshape(-1, replicas // expert).tolist())[1]


def _group_of_ours(rows: list[list[int]]) -> tuple[list[int], dist.ProcessGroup | None]:
    """The row of ranks that has ours, and its group; ([], None) where none has.

    Groups are made by all processes together, in the same order, whether they belong to them or not.
    """
    mine: tuple[list[int], dist.ProcessGroup | None] = ([], None)
    for row in rows:
        group = dist.new_group(row)
        if dist.get_rank() in row:
            mine = row, group
    return mine


def axis_over_stages(grid: Grid, stages: tuple[int, ...]) -> Axis:
    """These processes of our pipeline, for a weight that they hold together. Called by all processes alike."""
    if stages == (0, grid.pipeline.size - 1):
        return grid.ends
    place = stages.index(grid.pipeline.rank) if grid.pipeline.rank in stages else 0
    if grid.mesh is None:  # a grid that nobody joins, as a dry run has it
        return Axis("holders", len(stages), place)
    columns = grid.mesh.mesh.reshape(grid.pipeline.size, -1).T.tolist()
    _, group = _group_of_ours([[column[stage] for stage in stages] for column in columns])
    return Axis("holders", len(stages), place, group)


def _ends_of(mesh: DeviceMesh, pipeline: Axis) -> Axis:
    if pipeline.size == 1:
        return Axis("ends")
    columns = mesh.mesh.reshape(pipeline.size, -1).T.tolist()  # [replicas x tensor, pipeline]
    pair, group = _group_of_ours([[column[0], column[-1]] for column in columns])
    return Axis("ends", 2, pair.index(dist.get_rank()), group) if pair else Axis("ends")

"""What the environment and the machine say before any process meets another."""

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from hanbit.common.errors import ConfigError
from hanbit.parallel.grid import Axis, choose_device, make_grid, start_processes, stop_processes


def machine(monkeypatch: pytest.MonkeyPatch, num_gpus: int, **environment: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: num_gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("wanted", ["auto", "cpu"])
def test_a_machine_without_a_gpu_trains_on_its_cpu(wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, num_gpus=0)
    assert choose_device(wanted) == torch.device("cpu")


def test_cuda_where_there_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, num_gpus=0)
    with pytest.raises(ConfigError, match=r"training\.device=cuda.*no CUDA device.*Use cpu or auto"):
        choose_device("cuda")


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, num_gpus=2, LOCAL_RANK="1", LOCAL_WORLD_SIZE="2")
    assert choose_device("auto") == torch.device("cuda", 1)
    machine(
        monkeypatch, num_gpus=2, LOCAL_RANK="0", LOCAL_WORLD_SIZE="3"
    )  # were the third alone to say so, we would wait
    with pytest.raises(ConfigError, match=r"3 processes .* 2 CUDA device"):
        choose_device("cuda")


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2 without RANK and MASTER_ADDR and MASTER_PORT"),
        ({"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}, "RANK=2 must be less"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE=0 must be a whole number from 1 up"),
    ],
)
def test_processes_that_cannot_meet_are_told_so_at_once(
    environment: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, num_gpus=0, **environment)
    for name in {"MASTER_ADDR", "MASTER_PORT"} - set(environment):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match=words):
        start_processes(torch.device("cpu"))


@pytest.fixture
def thirteenth_of_sixteen() -> Iterator[None]:
    dist.init_process_group("fake", store=FakeStore(), rank=13, world_size=16)
    yield
    stop_processes()


def members(axis: Axis) -> list[int]:
    assert axis.group is not None
    return dist.get_process_group_ranks(axis.group)


@pytest.mark.usefixtures("thirteenth_of_sixteen")
def test_peers_of_a_process_along_each_axis() -> None:
    """Ranks count tensor first, then context, data, pipeline: 13 = 1 + 2 * (0 + 2 * (1 + 2 * 1))."""
    grid = make_grid(2, 2, 2, torch.device("cpu"), context=2, sequence=True)
    assert grid.size == 16
    assert [grid.pipeline.rank, grid.data.rank, grid.context.rank, grid.tensor.rank] == [1, 1, 0, 1]
    assert members(grid.pipeline) == [5, 13]
    assert members(grid.context) == [13, 15]
    assert members(grid.tensor) == [12, 13]
    assert members(grid.replicas) == [9, 11, 13, 15]
    assert grid.replicas.rank == 2
    assert members(grid.ends) == [5, 13]
    assert grid.tensor.splits_sequence


@pytest.mark.usefixtures("thirteenth_of_sixteen")
def test_expert_peers_are_neighbours_on_the_data_axis() -> None:
    """Ranks count tensor first, then data, pipeline: 13 = 1 + 2 * (2 + 4 * 1)."""
    grid = make_grid(2, 4, 2, torch.device("cpu"), expert=2)
    assert members(grid.expert) == [13, 15]
    assert grid.expert.rank == 0
    assert members(grid.expert_replicas) == [9, 13]
    assert (grid.expert_replicas.rank, grid.expert_replicas.size) == (1, 2)
    alone = make_grid(2, 4, 2, torch.device("cpu"), expert=4)
    assert members(alone.expert) == [9, 11, 13, 15]
    assert alone.expert_replicas == Axis("expert_replicas")


@pytest.mark.usefixtures("thirteenth_of_sixteen")
def test_without_context_the_replicas_are_the_data_axis() -> None:
    grid = make_grid(2, 4, 2, torch.device("cpu"), sequence=False)
    assert (grid.data.rank, grid.data.size) == (grid.replicas.rank, grid.replicas.size) == (2, 4)
    assert members(grid.replicas) == [9, 11, 13, 15]
    assert grid.context == Axis("context")
    assert not grid.tensor.splits_sequence

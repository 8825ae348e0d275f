"""Run a function in several processes joined by gloo, each on one thread; its results come back in rank order."""

import datetime
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing


def run_in_group(size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """`function` is a module's; what it returns is tensors, numbers, and containers of them."""
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_worker, args=(size, folder, function, arguments), nprocs=size)
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(size)]


def _worker(rank: int, size: int, folder: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meet",
        rank=rank,
        world_size=size,
        timeout=datetime.timedelta(seconds=60),
    )
    torch.save(function(*arguments), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()

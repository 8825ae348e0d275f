"""Ranks that were started differently find out together, before the first step."""

from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

import hanbit
from hanbit.bench.exactness import write_tokens
from hanbit.common.errors import ConfigError
from hanbit.config.load import load_recipe
from hanbit.config.resolve import resolve
from hanbit.data.megatron import TokenWriter
from hanbit.train.agreement import check_same_data, check_same_run
from hanbit.train.data import open_data
from hanbit.train.setup import grid_of
from tests.processes.group import run_in_group
from tests.train.recipes import tiny_run


def said_on_one_rank(folder: str) -> list[str]:
    """Rank 1 has another learning rate, then another torch, then another hanbit; at last nothing differs."""
    is_odd, settings = dist.get_rank() == 1, tiny_run(Path(folder))
    other = load_recipe("llama/base", [*settings, "optimizer.learning_rate=1e-3"] if is_odd else settings).recipe
    recipe = load_recipe("llama/base", settings).recipe
    torch_version, version = torch.__version__, hanbit.__version__
    said = []
    for turn in range(4):
        torch.__version__ = "2.12.0" if is_odd and turn == 1 else torch_version  # type: ignore[assignment]
        hanbit.__version__ = "0.0.9" if is_odd and turn == 2 else version
        try:
            check_same_run(other if turn == 0 else recipe)
            said.append("")
        except ConfigError as problem:
            said.append(str(problem))
    return said


def test_another_recipe_or_version_is_named_on_every_rank(tmp_path: Path) -> None:
    tiny_run(tmp_path)
    first, second = run_in_group(2, said_on_one_rank, str(tmp_path))
    assert first == second
    assert first[0].startswith("rank 1 has optimizer.learning_rate=0.001, rank 0 has optimizer.learning_rate=0.005. ")
    assert first[1].startswith(f"rank 1 has torch's version=2.12.0, rank 0 has torch's version={torch.__version__}. ")
    assert first[2].startswith(f"rank 1 has hanbit's version=0.0.9, rank 0 has hanbit's version={hanbit.__version__}. ")
    assert first[3] == ""


def told_of_data(folder: str) -> list[str]:
    """Rank 1 finds another token file under the same name; then none differ."""
    said = []
    for own in (f"{folder}/{dist.get_rank()}", f"{folder}/0"):
        recipe = load_recipe("llama/base", [*tiny_run(Path(own)), "data.split=0.05"]).recipe
        recipe = resolve(recipe, world_size=2, vocabulary=None, device="cpu").recipe
        try:
            check_same_data(*open_data(recipe, grid_of(recipe, torch.device("cpu"))))
            said.append("")
        except ConfigError as problem:
            said.append(str(problem))
    return said


def test_other_data_under_the_same_name_is_said_on_every_rank(tmp_path: Path) -> None:
    for rank in range(2):
        (tmp_path / str(rank)).mkdir()
        write_tokens(tmp_path / str(rank))
    with TokenWriter(tmp_path / "1/tokens", 513) as writer:
        for length in (5000, 4000, 11_000):
            writer.add(np.arange(length) % 513)
    first, second = run_in_group(2, told_of_data, str(tmp_path))
    assert first == second
    assert first[0].startswith("rank 1 has other data than rank 0 under the same name: data.train is 593 samples of ")
    assert first[1] == ""

"""Ranks that were started differently find out together, before the first step."""

from pathlib import Path

import torch
import torch.distributed as dist

import hanbit
from hanbit.common.errors import ConfigError
from hanbit.config.load import load_recipe
from hanbit.train.agreement import check_same_run
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

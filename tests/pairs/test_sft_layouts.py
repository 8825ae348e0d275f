"""All weights on answers only: over two processes, whose rows hold different numbers of answers, as over one."""

import pytest

from tests.pairs.layouts import Measured, all_layouts, assert_same, measured
from tests.processes.group import run_in_group
from tests.tuning.runs import sft_recipe

PACKED = ["data.packing=documents", "batch.global_batch=2"]
TWO = {
    "data 2": ["parallel.data=2"],
    "data 2, gradients sharded": ["parallel.data=2", "parallel.shard=2"],
    "data 2, parameters sharded": ["parallel.data=2", "parallel.shard=3", "training.recompute=full"],
    "tensor 2, sequence split": ["parallel.tensor=2", "parallel.sequence=true"],
    "pipeline 2": ["parallel.pipeline=2"],
    "context 2": ["parallel.context=2"],
    "context 2, packed": ["parallel.context=2", *PACKED],
    "data 2, packed": ["parallel.data=2", *PACKED],
}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(sft_recipe(tmp_path_factory.mktemp("sft")))


@pytest.fixture(scope="module")
def on_two(path: str) -> dict[str, Measured]:
    return run_in_group(2, all_layouts, {"sft": path}, 2, TWO, False)[0]


@pytest.mark.parametrize("layout", TWO)
def test_two_processes_equal_one(layout: str, path: str, on_two: dict[str, Measured]) -> None:
    assert_same(on_two[f"sft, {layout}"], measured(path, 1, PACKED if "packed" in layout else []))

"""LoRA over many processes gives one process's losses and gradient norms; without its own sum it does not."""

import pytest

from tests.pairs.layouts import Measured, all_layouts, assert_same, measured
from tests.processes.group import run_in_group
from tests.tuning.runs import tuning_recipe

TWO = {
    "tensor 2": ["parallel.tensor=2"],
    "pipeline 2": ["parallel.pipeline=2"],
    "data 2": ["parallel.data=2"],
    "data 2, optimizer sharded": ["parallel.data=2", "parallel.shard=1"],
    "data 2, gradients sharded": ["parallel.data=2", "parallel.shard=2"],
    "data 2, parameters sharded": ["parallel.data=2", "parallel.shard=3"],
    "data 2, parameters sharded and offloaded": ["parallel.data=2", "parallel.shard=3", "parallel.offload=true"],
    "context 2": ["parallel.context=2"],
    "tensor 2, sequence split": ["parallel.tensor=2", "parallel.sequence=true"],
    "recompute, tensor 2": ["parallel.tensor=2", "training.recompute=full"],
    "recompute, data 2, parameters sharded": ["parallel.data=2", "parallel.shard=3", "training.recompute=full"],
}
FOUR = {
    "tensor 2 x pipeline 2": ["parallel.tensor=2", "parallel.pipeline=2"],
    "data 2 x tensor 2": ["parallel.data=2", "parallel.tensor=2"],
    "context 2 x tensor 2": ["parallel.context=2", "parallel.tensor=2"],
    "data 2 x pipeline 2": ["parallel.data=2", "parallel.pipeline=2"],
    "data 2 x tensor 2, parameters sharded": ["parallel.data=2", "parallel.tensor=2", "parallel.shard=3"],
}
BASES = ("gpt2", "qwen2 tied")


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {base: str(tuning_recipe(tmp_path_factory.mktemp("base"), base)) for base in BASES}


@pytest.fixture(scope="module")
def single(paths: dict[str, str]) -> dict[str, Measured]:
    return {base: measured(path, 1, []) for base, path in paths.items()}


@pytest.fixture(scope="module")
def on_two(paths: dict[str, str]) -> dict[str, Measured]:
    return run_in_group(2, all_layouts, paths, 2, TWO, True)[0]


@pytest.fixture(scope="module")
def on_four(paths: dict[str, str]) -> dict[str, Measured]:
    return run_in_group(4, all_layouts, paths, 4, FOUR, False)[0]


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("layout", TWO)
def test_two_processes_equal_one(
    base: str, layout: str, single: dict[str, Measured], on_two: dict[str, Measured]
) -> None:
    assert_same(on_two[f"{base}, {layout}"], single[base])


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("layout", FOUR)
def test_four_processes_equal_one(
    base: str, layout: str, single: dict[str, Measured], on_four: dict[str, Measured]
) -> None:
    assert_same(on_four[f"{base}, {layout}"], single[base])


def test_without_the_sum_of_shared_gradients_the_difference_is_noticed(
    single: dict[str, Measured], on_two: dict[str, Measured]
) -> None:
    wanted, lame = single["gpt2"], on_two["lame"]
    assert lame["losses"] != pytest.approx(wanted["losses"], rel=1e-4)
    assert lame["norms"] != pytest.approx(wanted["norms"], rel=1e-4)

"""Layers shared out to pipeline stages, against every way there is to do it."""

import itertools

import torch
from hypothesis import given
from hypothesis import strategies as st

from hanbit.config.model import LlamaConfig
from hanbit.models.llama.plan import PLAN
from hanbit.models.registry import FAMILIES
from hanbit.parallel.split import balanced, layers_per_stage


def weights(blocks: list[int], head: int, sizes: tuple[int, ...]) -> list[int]:
    ends = list(itertools.accumulate(sizes))
    runs = [sum(blocks[end - size : end]) for end, size in zip(ends, sizes, strict=True)]
    return [*runs[:-1], runs[-1] + head]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(0, 30), st.integers(1, 5))
def test_no_other_split_has_a_lighter_heaviest_stage_or_more_alike_ones(
    blocks: list[int], head: int, stages: int
) -> None:
    stages = min(stages, len(blocks))
    every = [sizes for sizes in itertools.product(range(1, 9), repeat=stages) if sum(sizes) == len(blocks)]

    def cost(sizes: tuple[int, ...]) -> tuple[int, int]:
        found = weights(blocks, head, sizes)
        return max(found), sum(weight**2 for weight in found)

    sizes = balanced(blocks, head, stages)
    assert len(sizes) == stages
    assert cost(sizes) == min(map(cost, every))


def test_equal_layers_without_a_head_are_even_and_the_first_stages_have_one_more() -> None:
    assert balanced([5] * 8, 0, 3) == (3, 3, 2)


def test_a_large_vocabulary_leaves_the_last_stage_fewer_layers() -> None:
    config = LlamaConfig(
        family="llama", layers=8, hidden=32, heads=2, key_value_heads=2, head_dim=16, inner=64, vocabulary=640,
        context=16,
    )  # fmt: skip
    with torch.device("meta"):
        model = FAMILIES["llama"].build(config)
    # a layer is 10304 parameters (4 x 32 x 32, 3 x 32 x 64, two norms of 32), the head 20512: as much as two layers
    assert layers_per_stage(model, PLAN, 2) == (5, 3)
    assert layers_per_stage(model, PLAN, 4) == (3, 2, 2, 1)

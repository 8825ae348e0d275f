"""The traced memory of a rank against bytes counted by hand, and lines continued against the whole trace."""

from typing import Any

import pytest
import torch

from hanbit.config.recipe import Recipe
from hanbit.config.resolve import resolve
from hanbit.train.dry_run_fewer import with_sizes
from hanbit.train.dry_run_memory import fullest, memory_of, micro_batches, trace
from hanbit.train.live_tensors import LiveTensors, Part
from hanbit.train.setup import processes_of

WIDTH, LAYERS, VOCABULARY = 32, 6, 512
LAYER = 2 * WIDTH + 4 * WIDTH * WIDTH + 3 * WIDTH * 64
NAMES_OF_A_LAYER = 9


SHORT = {"micro_batch": 1, "global_batch": 3, "sequence_length": 64}
LONG = {"micro_batch": 1, "global_batch": 8, "sequence_length": 16}  # 8 micro-batches, and 6 fill the pipeline
MIXTURE = {
    "family": "mixture", "layers": LAYERS, "hidden": WIDTH, "heads": 4, "inner": 64, "vocabulary": VOCABULARY,
    "experts": 2, "sparse_every": 2,
}  # fmt: skip
T5 = {
    "family": "t5", "layers": 7, "decoder_layers": 3, "hidden": WIDTH, "heads": 4, "inner": 64,
    "vocabulary": VOCABULARY,
}  # fmt: skip
GEMMA = {
    "family": "gemma", "layers": 8, "hidden": WIDTH, "heads": 4, "inner": 64, "vocabulary": VOCABULARY,
    "sliding_window": 9, "full_every": 3,
}  # fmt: skip


def recipe_of(processes: int = 1, **sections: dict[str, Any]) -> Recipe:
    """A Llama of 6 layers, and a batch of 12 sequences a replica."""
    parallel = sections.get("parallel", {})
    model = {"family": "llama", "layers": LAYERS, "hidden": WIDTH, "heads": 4, "inner": 64, "vocabulary": VOCABULARY}
    replicas = processes // (parallel.get("tensor", 1) * parallel.get("pipeline", 1))
    whole = {
        "name": "traced",
        "model": model,
        "data": {"train": "nowhere"},
        "batch": {"micro_batch": 2, "global_batch": 12 * replicas, "sequence_length": 64},
        **sections,
        "training": {"steps": 1, **sections.get("training", {})},
    }
    return resolve(Recipe.model_validate(whole), world_size=processes, vocabulary=None).recipe


def test_weights_gradients_and_moments_of_one_process_are_those_counted_by_hand() -> None:
    parts = memory_of(recipe_of(), 0).parts
    parameters = LAYERS * LAYER + WIDTH + 2 * VOCABULARY * WIDTH
    assert parts[Part.WEIGHTS] == parts[Part.GRADIENTS] == 4 * parameters
    counters = 4 * (LAYERS * NAMES_OF_A_LAYER + 3)
    assert parts[Part.OPTIMIZER] == 8 * parameters + counters
    assert parts[Part.COMMUNICATION] == 0


def test_the_last_of_4096_ranks_is_looked_at_alone_and_leaves_nothing_behind() -> None:
    layout = {"tensor": 4, "pipeline": 2, "shard": 3, "layers_per_stage": [3, 3]}
    found = memory_of(recipe_of(4096, parallel=layout, cluster={"nodes": 512}), 1)
    assert (found.rank, found.node) == (2048, 256)
    assert not torch.distributed.is_initialized()
    # the first of 512 holds a row of each weight: query, key, value, output, gate, up, down, two norms; norm and head
    numbers = 3 * (3 * WIDTH + WIDTH // 4 + 2 * WIDTH + 64 // 4 + 2) + 1 + WIDTH
    assert found.parts[Part.OPTIMIZER] == 8 * numbers + 4 * (3 * NAMES_OF_A_LAYER + 2)
    assert found.parts[Part.COMMUNICATION] > 0


@pytest.mark.parametrize(
    ("processes", "sections"),
    [
        (1, {"training": {"recompute": "full"}}),
        (4, {"parallel": {"pipeline": 2, "tensor": 2}}),
        (2, {"parallel": {"shard": 3}}),
        (2, {"parallel": {"shard": 2}, "training": {"precision": "bf16"}}),
        (1, {"training": {"recompute": "full", "recompute_layers": 2, "recompute_every": 2}, "batch": SHORT}),
        (1, {"model": MIXTURE, "batch": SHORT}),
        (1, {"model": GEMMA, "batch": SHORT}),
        (2, {"model": T5, "batch": SHORT, "parallel": {"pipeline": 2, "layers_per_stage": [5, 5]}}),
        pytest.param(
            2,
            {"parallel": {"pipeline": 2, "schedule": "gpipe", "layers_per_stage": [3, 3]}, "batch": LONG},
            marks=pytest.mark.slow,
        ),
        (2, {"parallel": {"pipeline": 2, "virtual": 2}, "batch": LONG}),
        pytest.param(
            2, {"parallel": {"pipeline": 2, "schedule": "zero_bubble"}, "batch": LONG}, marks=pytest.mark.slow
        ),
    ],
)
def test_few_layers_and_micro_batches_continued_are_the_whole_trace(
    processes: int, sections: dict[str, dict[str, Any]]
) -> None:
    recipe = recipe_of(processes, **sections)
    for stage in range(recipe.parallel.pipeline):
        rank = stage * processes_of(recipe) // recipe.parallel.pipeline
        whole = sum(fullest(trace(with_sizes(recipe), rank, micro_batches(recipe)).device).values())
        assert memory_of(recipe, stage).total == pytest.approx(whole, rel=0.005)


def test_weights_that_fsdp_gathers_are_weights_from_their_first_use_on() -> None:
    """One micro-batch: they are gathered once, for forward, and stay for backward."""
    batch = {"micro_batch": 2, "global_batch": 4, "sequence_length": 64}
    parts = memory_of(recipe_of(2, batch=batch, parallel={"shard": 2}), 0).parts
    parameters = LAYERS * LAYER + WIDTH + 2 * VOCABULARY * WIDTH
    assert 4 * parameters * 1.4 < parts[Part.WEIGHTS] < 4 * parameters * 1.6  # its half of each, and most of them whole


def test_what_is_offloaded_lies_in_the_other_memory() -> None:
    """Half of every weight, gradient and moment, counted by hand; the GPU has what is gathered, and no moments."""
    found = memory_of(recipe_of(2, parallel={"shard": 3, "offload": True}), 0)
    parameters = LAYERS * LAYER + WIDTH + 2 * VOCABULARY * WIDTH
    counters = 4 * (LAYERS * NAMES_OF_A_LAYER + 3)
    assert found.host[Part.WEIGHTS] == found.host[Part.GRADIENTS] == 4 * parameters // 2
    assert found.host[Part.OPTIMIZER] == 8 * parameters // 2 + counters
    assert found.parts[Part.OPTIMIZER] == 0
    kept = memory_of(recipe_of(2, parallel={"shard": 3}), 0)
    assert kept.host == {}
    assert found.total < kept.total - 8 * parameters // 2


def test_a_stage_holds_a_micro_batch_for_every_stage_from_it_on() -> None:
    layout = {"pipeline": 3, "layers_per_stage": [2, 2, 2]}
    recipe = recipe_of(3, parallel=layout, batch={"micro_batch": 4, "global_batch": 36, "sequence_length": 256})
    first, middle = (memory_of(recipe, stage).parts[Part.ACTIVATIONS] for stage in range(2))
    # three on their way against two; the middle's first inputs lie in its receive buffers
    assert first == pytest.approx(1.5 * middle, rel=0.1)


def test_a_stage_has_room_only_for_messages_on_their_way() -> None:
    """A middle one of three: two micro-batches between forward and backward, and two gradients, however many there are:
    torch forgets one when it asks for the next."""
    layout = {"pipeline": 3, "layers_per_stage": [2, 2, 2]}
    recipe = recipe_of(3, parallel=layout, batch={"micro_batch": 1, "global_batch": 12, "sequence_length": 64})
    received = [fullest(trace(with_sizes(recipe), 1, count).device)[Part.COMMUNICATION] for count in (4, 8)]
    message = 4 * 64 * WIDTH
    assert 3 * message <= received[0] == received[1] <= 4 * message


def test_the_last_stage_keeps_of_a_micro_batch_its_tokens_and_its_loss() -> None:
    """Not what it received, which torch holds by the graph of each loss until the step ends."""
    layout = {"pipeline": 2, "layers_per_stage": [3, 3]}
    recipe = recipe_of(2, parallel=layout, batch={"micro_batch": 1, "global_batch": 12, "sequence_length": 64})
    held = [sum(fullest(trace(with_sizes(recipe), 1, count).device).values()) for count in (4, 6)]
    assert held[1] - held[0] < 2 * (2 * 8 * 64 + 100)


def test_recompute_keeps_the_inputs_of_blocks_alone() -> None:
    kept = memory_of(recipe_of(training={"recompute": "none"}), 0).parts[Part.ACTIVATIONS]
    forgotten = memory_of(recipe_of(training={"recompute": "full"}), 0).parts[Part.ACTIVATIONS]
    assert forgotten < kept / 2


def test_experts_hold_what_they_hold_if_each_gets_as_many_tokens() -> None:
    """Over two processes each has half of the experts, and as many rows as it has itself."""
    alone = memory_of(recipe_of(model=MIXTURE), 0).parts
    shared = memory_of(recipe_of(2, model=MIXTURE, parallel={"data": 2, "expert": 2}), 0).parts
    experts = LAYERS // 2 * 2 * 3 * WIDTH * 64  # numbers of 2 experts in every second layer
    assert alone[Part.WEIGHTS] - shared[Part.WEIGHTS] == 4 * experts // 2
    assert alone[Part.OPTIMIZER] - shared[Part.OPTIMIZER] == 8 * experts // 2


@pytest.mark.parametrize(("device", "precision"), [("cpu", "fp32"), ("cuda", "bf16"), ("auto", "bf16")])
def test_a_precision_that_the_training_machine_decides_is_counted_as_what_most_take(
    device: str, precision: str
) -> None:
    left, named = (
        memory_of(recipe_of(training={"device": device, "precision": one}), 0).parts for one in ("auto", precision)
    )
    assert left == named


def test_live_tensors_are_counted_once_and_forgotten_when_they_go() -> None:
    with LiveTensors() as live:
        whole = torch.zeros(1000)
        view = whole[:10]
        assert live.device.total == 4000
        del whole
        assert live.device.total == 4000  # the view holds it
        del view
        assert (live.device.total, live.device.peak) == (0, 4000)

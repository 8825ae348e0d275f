"""Pictures of two processes: who sends what, in which lane, and the sums of each rank's own metrics."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from hanbit.config.load import load_recipe
from hanbit.config.resolve import resolve
from hanbit.parallel.clock import Phase
from hanbit.train.loop import one_step
from hanbit.train.run import build
from hanbit.train.setup import grid_of
from hanbit.train.trace import Trace
from tests.processes.group import run_in_group
from tests.train.recipes import tiny_run
from tests.train.traces import Event, check_format, complete, own_seconds, step_of

LAYERS, HIDDEN_BYTES = 2, 2 * 32 * 32 * 4  # micro-batch x tokens x width, float32
LAYOUTS = {
    "pipeline": ("llama/base", ["parallel.pipeline=2", "parallel.schedule=zero_bubble"]),
    "sequence": ("llama/base", ["parallel.tensor=2", "parallel.sequence=true"]),
    "context": ("llama/base", ["parallel.context=2"]),
    "expert": ("mixtral/base", ["parallel.expert=2", "model.experts=4"]),
    "shard": ("llama/base", ["parallel.data=2", "parallel.shard=3"]),
}


def traced_on_one_rank(folder: str) -> list[dict[str, float]]:
    """Of each layout two steps, the second of them traced; its numbers."""
    found = []
    for name, (base, settings) in LAYOUTS.items():
        chosen = [*tiny_run(Path(folder)), "logging.trace.steps=[2]", *settings]
        recipe = resolve(load_recipe(base, chosen).recipe, world_size=2, vocabulary=None, device="cpu").recipe
        grid = grid_of(recipe, torch.device("cpu"))
        training, trace = build(recipe, grid), Trace(recipe.logging.trace, Path(folder) / name, grid)
        for step in (1, 2):
            with trace.step(step):
                numbers, _ = one_step(training)
        found.append({key: value for key, value in numbers.items() if key.endswith("_seconds")})
    return found


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[list[Event], list[dict[str, float]]]]:
    """By layout: the events, and the numbers of each rank."""
    folder = tmp_path_factory.mktemp("traces")
    tiny_run(folder)
    ranks = run_in_group(2, traced_on_one_rank, str(folder))
    texts = {name: (folder / name / "step-000002.json").read_text() for name in LAYOUTS}
    return {
        name: (json.loads(text)["traceEvents"], [rank[index] for rank in ranks])
        for index, (name, text) in enumerate(texts.items())
    }


def sent(events: list[Event], rank: int) -> Counter[tuple[str, int]]:
    """How often a rank communicated, by purpose and bytes."""
    own = [event for event in complete(events) if event["pid"] == rank and event["cat"] == "communication"]
    return Counter((event["name"], event["args"]["bytes"]) for event in own)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_rank_has_the_sums_of_its_own_metrics(pictures: Any, layout: str) -> None:
    events, rows = pictures[layout]
    check_format(events)
    for rank, row in enumerate(rows):
        seconds = own_seconds(events, step_of(events, rank))
        for phase in Phase:
            if phase is not Phase.OTHER:
                assert seconds.get(phase, 0.0) == pytest.approx(row[f"{phase}_seconds"], abs=2e-6)
        assert (row["communication_seconds"], row["forward_backward_seconds"]) > (0, 0)


def test_a_pipeline_shows_the_passes_of_its_stages_and_the_gaps_between_them(pictures: Any) -> None:
    events, _ = pictures["pipeline"]
    names = {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert names == {0: "rank 0 (pipeline 0)", 1: "rank 1 (pipeline 1)"}
    lanes = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    for rank in range(2):
        passes = [e for e in complete(events) if lanes[e["pid"], e["tid"]] == f"stage {rank}" and e["pid"] == rank]
        kinds = ("forward", "backward of inputs", "backward of weights")
        assert Counter((e["name"], e["args"]["micro_batch"]) for e in passes) == {
            (kind, index): 1 for kind in kinds for index in range(4)
        }
        waits = [e for e in complete(events) if lanes[e["pid"], e["tid"]].startswith("waiting") and e["pid"] == rank]
        assert len(waits) > 4
        assert sent(events, rank)["world.gradient_norm", 8] == 1


def test_parts_of_sequences_are_on_the_clock_with_their_bytes(pictures: Any) -> None:
    counted = sent(pictures["sequence"][0], 1)
    # attention and MLP: forward their input is gathered from halves, backward its gradient is summed to halves
    assert counted["sequence.region_gather", HIDDEN_BYTES // 2] == 2 * LAYERS * 4
    assert counted["sequence.region_scatter", HIDDEN_BYTES] == 2 * LAYERS * 4
    counted = sent(pictures["context"][0], 1)
    both = 2 * (2 * 16 * 2 * 8 * 4)  # keys and values: sequences x half of the tokens x 2 heads of 8, float32
    assert counted["context.gather", both] == LAYERS * 4
    assert counted["context.scatter", 2 * both] == LAYERS * 4


def test_rows_that_travel_to_experts_are_on_the_clock(pictures: Any) -> None:
    events, _ = pictures["expert"]
    purposes = Counter(purpose for purpose, _ in sent(events, 0).elements())
    # 2 micro-batches a rank: counts and rows out, rows back; in backward their gradients both ways
    assert purposes["expert.dispatch"] == LAYERS * 2 * 3
    assert purposes["expert.combine"] == LAYERS * 2 * 2
    assert purposes["data.replica_gradient"] == 1
    rows = 2 * HIDDEN_BYTES  # every token of a micro-batch goes to 2 experts
    assert sent(events, 0)["expert.dispatch", rows] >= LAYERS * 2


def test_what_fsdp2_gathers_and_reduces_is_on_the_clock_with_its_bytes(pictures: Any) -> None:
    events, _ = pictures["shard"]
    lanes = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    own = [event for event in complete(events) if event["pid"] == 1]
    gathers = [event for event in own if lanes[1, event["tid"]] == "FSDP2 gathers weights"]
    reductions = [event for event in own if lanes[1, event["tid"]] == "FSDP2 reduces gradients"]
    # 2 micro-batches: each block forward and again for backward; what is outside of blocks stays in between
    assert Counter(event["name"] for event in gathers) == {"data.shard_gather": 2 * (2 * LAYERS + 1)}
    assert Counter(event["name"] for event in reductions) == {"data.shard_reduce": LAYERS + 1}
    parameters = sum(event["args"]["bytes"] for event in reductions) // 4
    assert sum(event["args"]["bytes"] for event in gathers[: LAYERS + 1]) == 4 * parameters // 2

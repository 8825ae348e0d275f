"""Runs cases of the exactness proof inside a group of processes, and writes what the steps of each gave as JSON.

Started by `bench/exactness.py`:  torchrun ... -m hanbit.bench.exactness_worker JOBS.json RESULTS.jsonl DATA
"""

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from unittest import mock

import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule
from torch.distributed.pipelining import PipelineStage

from hanbit.bench.exactness_cases import MODELS, PACKED, STEPS
from hanbit.bench.group import add_result
from hanbit.common.log import start_logging
from hanbit.config.recipe import Recipe
from hanbit.config.resolve import resolve
from hanbit.parallel.clip import norm_of_each
from hanbit.parallel.collectives import LEFT_OUT, Purpose, sum_over_world
from hanbit.parallel.grid import leave_groups, start_processes, stop_processes, world_size
from hanbit.train.loop import ROUTER_LOSSES, next_batch, one_step
from hanbit.train.run import build
from hanbit.train.setup import Training, grid_of

GLOBAL_BATCH = 8


def recipe_of(data: str, model: str, settings: dict[str, dict[str, Any]]) -> Recipe:
    """Batch of 8 sequences of 32 tokens, in as few micro-batches as show what there is to show."""
    sections: dict[str, Any] = {
        "name": "exactness",
        "model": MODELS[model],
        "data": {"train": data, "split": 0.0, "verify": False, "packing": "documents" if model in PACKED else "none"},
        "batch": {
            "micro_batch": _micro_batch(model, settings.get("parallel", {})),
            "global_batch": GLOBAL_BATCH,
            "sequence_length": 32,
        },
        "training": {"steps": STEPS, "device": "cpu", **settings.get("training", {})},
        "parallel": settings.get("parallel", {}),
        "optimizer": {"learning_rate": 3e-3, "warmup_steps": 2, "clip_grad_norm": 0.5, "epsilon": 1e-5},
    }
    return resolve(Recipe.model_validate(sections), world_size=world_size(), vocabulary=None).recipe


def _micro_batch(model: str, parallel: dict[str, Any]) -> int:
    """Two micro-batches for a replica, so that gradients add up; for a pipeline twice its stages, so that it runs full.

    A micro-batch more is each collective once more. Experts are kept balanced within each, so there they stay the same;
    and ReLU's kink makes much of one rounding, so there every product keeps its order.
    """
    shape = MODELS[model]
    if shape["family"] == "mixture" or (shape["family"] == "t5" and not shape.get("gated", False)):
        return 1
    return max(1, GLOBAL_BATCH // (2 * parallel.get("pipeline", 1) * parallel.get("data", 1)))


def run_job(data: str, job: dict[str, Any]) -> dict[str, Any]:
    """Losses, total norms and every gradient tensor's norm, step by step; losses of evaluations among the losses.

    Of fewer steps than STEPS, where a job asks for them: the beginning of the same.
    """
    recipe = recipe_of(data, job["model"], job["settings"])
    grid = grid_of(recipe, torch.device("cpu"))
    losses, norms, tensors = [], [], []
    with left_out(job.get("without")):
        training = build(recipe, grid)
        _leave_out_of_shards(training, job.get("without"))
        for _ in range(job["steps"]):
            numbers, _stopping = one_step(training)
            losses.append(numbers["loss"])
            norms += [numbers[key] for key in ("grad_norm", *ROUTER_LOSSES) if key in numbers]
            tensors.append(norm_of_each(training.model))
            if training.step == STEPS // 2:
                losses.append(_evaluated(training))
        if training.step == STEPS:
            losses.append(_evaluated(training))
    return {"losses": losses, "norms": norms, "tensors": tensors}


def _evaluated(training: Training) -> float:
    """The loss of the next batch without gradients, as validation has it; training must go on undisturbed."""
    size = training.recipe.batch.global_batch
    share = training.batches.evaluate(next_batch(training), training.samples.count_targets(0, size))
    return sum_over_world(share.double() / training.model.grid.tensor.size, Purpose.LOSS_REPORT).item()


@contextlib.contextmanager
def left_out(purpose: str | None) -> Iterator[None]:
    """Without the collective of that purpose: ours are skipped, what a stage received becomes zeros."""
    if purpose is None:
        yield
        return
    names = {
        Purpose.STAGE_FORWARD: "_retrieve_recv_activations",
        Purpose.STAGE_BACKWARD: "_retrieve_recv_grads",
    }
    LEFT_OUT.add(Purpose(purpose))
    try:
        with contextlib.ExitStack() as stack:
            if Purpose(purpose) in names:
                stack.enter_context(_zeros_received(names[Purpose(purpose)]))
            yield
    finally:
        LEFT_OUT.clear()


def _zeros_received(method: str) -> Any:
    original = getattr(PipelineStage, method)

    def emptied(stage: PipelineStage, index: int) -> Any:
        received = original(stage, index)
        for tensor in received:
            tensor.data.zero_()
        return received

    return mock.patch.object(PipelineStage, method, emptied)


class _OwnPartOnly:
    """An FSDP2 collective that takes our own data for everyone's: what it would be without communication."""

    def allocate(self, size: Any, *, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        return torch.empty(*size, dtype=dtype, device=device)

    def gather(
        self, output_tensor: torch.Tensor, input_tensor: torch.Tensor, group: Any, async_op: bool = False
    ) -> None:
        output_tensor.view(dist.get_world_size(group), -1).copy_(input_tensor.clone().view(1, -1))

    def reduce_scatter(
        self, output_tensor: torch.Tensor, input_tensor: torch.Tensor, group: Any, op: Any, async_op: bool = False
    ) -> None:
        output_tensor.copy_(input_tensor.view(dist.get_world_size(group), -1)[dist.get_rank(group)])


class _GatherOwn(_OwnPartOnly):
    __call__ = _OwnPartOnly.gather


class _ReduceOwn(_OwnPartOnly):
    __call__ = _OwnPartOnly.reduce_scatter


def _leave_out_of_shards(training: Training, purpose: str | None) -> None:
    for module in [module for stage in training.model.stages for module in stage.modules()]:
        if isinstance(module, FSDPModule) and purpose == Purpose.SHARD_GATHER:
            module.set_custom_all_gather(cast(Any, _GatherOwn()))
        if isinstance(module, FSDPModule) and purpose == Purpose.SHARD_REDUCE:
            module.set_custom_reduce_scatter(cast(Any, _ReduceOwn()))


def main() -> None:
    jobs_path, results_path, data = sys.argv[1:]
    start_logging()
    torch.set_num_threads(1)
    start_processes(torch.device("cpu"), timeout_seconds=120)
    for job in json.loads(Path(jobs_path).read_text()):
        measured = run_job(data, job)
        if not dist.is_initialized() or dist.get_rank() == 0:
            add_result(results_path, measured)
        leave_groups()
    stop_processes()


if __name__ == "__main__":
    main()

"""A dry run in words and as JSON."""

import json
from typing import Any

from hanbit.common.units import readable_bytes, readable_count
from hanbit.train.dry_run import DryRun
from hanbit.train.setup import known


def told(run: DryRun, as_json: bool) -> str:
    return json.dumps(_as_json(run), ensure_ascii=False) if as_json else "\n".join(_as_lines(run))


def _as_lines(run: DryRun) -> list[str]:
    decisions = [f"{one.key}={one.value}: {one.reason}" for one in run.resolved.decisions]
    facts = {
        "run": _start(run),
        "processes": _processes(run),
        "parameters": _parameters(run),
        "of a process": _stages(run),
        "a step": _step(run),
        "all steps": f"{run.steps} steps of {readable_count(run.tokens_per_step)} tokens = "
        f"{readable_count(run.steps * run.tokens_per_step)} tokens; {run.passes}",
        "validation": f"{run.validation_sequences} sequences",
        "a checkpoint": _checkpoint(run),
        "would write": "\n              ".join(run.files),
    }
    return [*decisions, *run.resolved.notes, "", *(f"{name:<13} {text}" for name, text in facts.items())]


def _as_json(run: DryRun) -> dict[str, Any]:
    decisions = [{"key": one.key, "value": one.value, "reason": one.reason} for one in run.resolved.decisions]
    return {
        "recipe": run.recipe.model_dump(mode="json"),
        "decisions": decisions,
        "notes": [*run.resolved.notes, run.passes],
        "processes": run.processes,
        "parameters": run.parameters,
        "trained_parameters": run.trained,
        "stage_parameters": run.stages,
        "steps": run.steps,
        "tokens_per_step": run.tokens_per_step,
        "train_sequences": run.train_sequences,
        "validation_sequences": run.validation_sequences,
        "checkpoint_bytes": run.checkpoint_bytes,
        "reached_step": run.reached,
        "files": list(run.files),
    }


def _start(run: DryRun) -> str:
    if run.reached is None:
        return f"{run.recipe.name}, from the start"
    return f"{run.recipe.name}, continuing after step {run.reached} if that checkpoint is whole"


def _processes(run: DryRun) -> str:
    parallel = run.recipe.parallel
    grid = f"pipeline {parallel.pipeline} x data {parallel.data} x tensor {parallel.tensor}"
    return f"{run.processes} = {grid}"


def _parameters(run: DryRun) -> str:
    told = f"{run.parameters:,} ({readable_count(run.parameters)})"
    return told if run.trained == run.parameters else f"{told}, of which {run.trained:,} are trained"


def _stages(run: DryRun) -> str:
    told = ", ".join(f"stage {stage}: {readable_count(count)}" for stage, count in run.stages.items())
    shard, data = run.recipe.parallel.shard, known(run.recipe.parallel.data)
    return f"{told}; shared out over {data} replicas (parallel.shard={shard})" if shard and data > 1 else told


def _step(run: DryRun) -> str:
    batch, data = run.recipe.batch, known(run.recipe.parallel.data)
    micro = known(batch.micro_batch)
    count = batch.global_batch // (data * micro)
    sequences = f"{batch.global_batch} sequences of {batch.sequence_length} tokens"
    return f"{sequences}: {data} replica(s) x {count} micro-batch(es) x {micro}"


def _checkpoint(run: DryRun) -> str:
    section = run.recipe.checkpoint
    return (
        f"{readable_bytes(run.checkpoint_bytes)}, every {section.every_steps} steps, the newest {section.keep} are kept"
    )

"""A dry run in words and as JSON."""

import json
from typing import Any

from hanbit.common.units import readable_bytes, readable_count
from hanbit.train.dry_run import DryRun
from hanbit.train.dry_run_memory import RankMemory, counted_precision
from hanbit.train.live_tensors import Part
from hanbit.train.setup import known

BELOW = "\n" + 14 * " "  # what stands below the first line of a fact


def told(run: DryRun, as_json: bool) -> str:
    return json.dumps(_as_json(run), ensure_ascii=False) if as_json else "\n".join(_as_lines(run))


def _as_lines(run: DryRun) -> list[str]:
    decisions = [f"{one.key}={one.value}: {one.reason}" for one in run.resolved.decisions]
    facts = {
        "run": _start(run),
        "processes": _processes(run),
        "nodes": _nodes(run),
        "parameters": _parameters(run),
        "of a process": _stages(run),
        "a step": _step(run),
        "arithmetic": f"{run.flops_per_step:.3g} FLOPs a step (docs/models.md says what is counted)",
        "all steps": f"{run.steps} steps of {readable_count(run.tokens_per_step)} tokens = "
        f"{readable_count(run.steps * run.tokens_per_step)} tokens; {BELOW.join(run.passes)}",
        "validation": _validation(run),
        "a checkpoint": _checkpoint(run),
        "would write": BELOW.join(run.files),
    }
    told = [f"{name:<13} {text}" for name, text in facts.items() if text]
    return [*decisions, *run.resolved.notes, "", *told, "", *_memory(run)]


def _as_json(run: DryRun) -> dict[str, Any]:
    decisions = [{"key": one.key, "value": one.value, "reason": one.reason} for one in run.resolved.decisions]
    return {
        "recipe": run.recipe.model_dump(mode="json"),
        "decisions": decisions,
        "notes": [*run.resolved.notes, *run.passes],
        "processes": run.processes,
        "parameters": run.parameters,
        "nodes": None if run.recipe.cluster is None else run.recipe.cluster.nodes,
        "trained_parameters": run.trained,
        "stage_parameters": run.stages,
        "memory": [_memory_json(one) for one in run.memory],
        "lacking_bytes": run.lacking_bytes,
        "would_fit": [{"settings": list(way.settings), "needed_bytes": way.needed} for way in run.ways],
        "flops_per_step": run.flops_per_step,
        "steps": run.steps,
        "tokens_per_step": run.tokens_per_step,
        "train_sequences": run.train_sequences,
        "data_missing": run.data_missing,
        "validation_sequences": run.validation_sequences,
        "validation_sets": run.validation_sets,
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
    context = f" x context {parallel.context}" if parallel.context > 1 else ""
    return f"{run.processes} = pipeline {parallel.pipeline} x data {parallel.data}{context} x tensor {parallel.tensor}"


def _nodes(run: DryRun) -> str:
    """Where ranks run, and which axes leave a node: their collectives go over the network."""
    cluster, parallel = run.recipe.cluster, run.recipe.parallel
    if cluster is None:
        return ""
    width = parallel.tensor * parallel.context * known(parallel.data)
    spans = {
        f"a tensor group on {_span(parallel.tensor, cluster.gpus_per_node)}": parallel.tensor > 1,
        f"a stage's {width} ranks on {_span(width, cluster.gpus_per_node)}": parallel.pipeline > 1,
    }
    told = [f"{cluster.nodes} of {cluster.gpus_per_node} GPUs", *(text for text, is_told in spans.items() if is_told)]
    return "; ".join(told)


def _span(ranks: int, gpus_per_node: int) -> str:
    """Groups of neighbours: they share a node where their size divides it."""
    if gpus_per_node % ranks == 0:
        return "one node"
    return f"{-(-ranks // gpus_per_node)} nodes" if ranks % gpus_per_node == 0 else "nodes shared with others"


def _memory(run: DryRun) -> list[str]:
    """A table: a line for each stage that was traced, a column for each part."""
    rows = [["a rank of", *Part, "all"]]
    for one in run.memory:
        where = f"stage {one.stage}: rank {one.rank}" + ("" if one.node is None else f" on node {one.node}")
        rows.append([where, *(readable_bytes(one.parts[part]) for part in Part), readable_bytes(one.total)])
        if one.host:
            rows.append(["in the CPU's", *(readable_bytes(one.host[p]) for p in Part), readable_bytes(one.host_total)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    training = run.recipe.training
    counted = counted_precision(training)
    left = "" if training.precision == counted else f" (training.precision={training.precision} taken for {counted})"
    return [f"memory at the fullest moment of a step, tensors alone{left}:", *lines, *_room(run)]


def _room(run: DryRun) -> list[str]:
    """Does it fit into one GPU, and what would if not?"""
    cluster, lacking = run.recipe.cluster, run.lacking_bytes
    if cluster is None or lacking is None:
        return []
    told = f"the fullest of these ranks needs {run.fullest.total / 1e9:.1f} of {cluster.gpu_memory_gb:g} GB"
    if not lacking:
        return [f"{told}: fits, if kernels and NCCL take no more than the rest"]
    part, size = max(run.fullest.parts.items(), key=lambda one: one[1])
    told += f": does not fit, by {lacking / 1e9:.1f} GB; {size / 1e9:.1f} of it are {part}"
    return [told, *_what_would_fit(run)]


def _what_would_fit(run: DryRun) -> list[str]:
    if not run.ways:
        return ["no recompute, shard, micro-batch, tensor or pipeline over these processes makes it fit: use more"]
    ways = [f"    {' '.join(way.settings)}  ({way.needed / 1e9:.1f} GB)" for way in run.ways]
    return ["each of these would fit, on as many processes:", *ways]


def _memory_json(one: RankMemory) -> dict[str, Any]:
    parts = {f"{part}_bytes": size for part, size in one.parts.items()}
    host = {f"host_{part}_bytes": size for part, size in one.host.items()}
    return {"stage": one.stage, "rank": one.rank, "node": one.node, **parts, "total_bytes": one.total, **host}


def _parameters(run: DryRun) -> str:
    told = f"{run.parameters:,} ({readable_count(run.parameters)})"
    return told if run.trained == run.parameters else f"{told}, of which {run.trained:,} are trained"


def _stages(run: DryRun) -> str:
    told = ", ".join(f"stage {stage}: {readable_count(count)}" for stage, count in run.stages.items())
    parallel = run.recipe.parallel
    shares = known(parallel.data) * parallel.context
    if parallel.shard < 2 or shares == 1:
        return told
    return f"{told}; shared out over {shares} ranks of data and context (parallel.shard={parallel.shard})"


def _validation(run: DryRun) -> str:
    sets = run.validation_sets.items()
    return BELOW.join(f"{name}: {count} sequences".removeprefix(": ") for name, count in sets) or "0 sequences"


def _step(run: DryRun) -> str:
    batch, data = run.recipe.batch, known(run.recipe.parallel.data)
    micro = known(batch.micro_batch)
    count = batch.global_batch // (data * micro)
    sequences = f"{batch.global_batch} sequences of {batch.sequence_length} tokens"
    if batch.ramp_up is not None:
        sequences += f" (from {batch.ramp_up.start} on, growing over {batch.ramp_up.samples} samples)"
    return f"{sequences}: {data} replica(s) x {count} micro-batch(es) x {micro}"


def _checkpoint(run: DryRun) -> str:
    section = run.recipe.checkpoint
    return (
        f"{readable_bytes(run.checkpoint_bytes)}, every {section.every_steps} steps, the newest {section.keep} are kept"
    )

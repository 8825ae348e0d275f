"""The dry run's memory beside a real run's: the same layouts, once without numbers and once in gloo processes.

Real processes count the tensors that are alive, operation by operation, over two steps; the dry run traces one step of
the first rank of a stage, with fewer layers and micro-batches, and continues. Each rank of a group is compared.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanbit.bench.exactness import relative, write_tokens
from hanbit.bench.exactness_cases import MODELS, RELATIVES, Case
from hanbit.bench.group import results_of
from hanbit.common.units import readable_bytes
from hanbit.config.recipe import Recipe
from hanbit.config.resolve import resolve
from hanbit.train.dry_run_memory import memory_of

TOLERANCE = 0.05  # of the bytes at the fullest moment
LAYERS, MICRO_BATCHES = 8, 8  # more than are traced, so that the straight lines are tried too

CASES = (
    Case("one process", "llama", 1),
    Case("one process, bf16, recompute", "gpt", 1, {"training": {"precision": "bf16", "recompute": "full"}}),
    Case("data 2", "gpt", 2, {"parallel": {"data": 2}}),
    Case("data 2, optimizer sharded", "llama", 2, {"parallel": {"data": 2, "shard": 1}}),
    Case("data 2, parameters sharded", "llama tied", 2, {"parallel": {"data": 2, "shard": 3}}),
    Case("tensor 2, recompute", "llama", 2, {"parallel": {"tensor": 2}, "training": {"recompute": "full"}}),
    Case("pipeline 2, bf16", "llama tied", 2, {"parallel": {"pipeline": 2}, "training": {"precision": "bf16"}}),
    Case("data 2 x pipeline 2, gradients sharded", "gpt", 4, {"parallel": {"data": 2, "pipeline": 2, "shard": 2}}),
    Case("data 2 x tensor 2 x pipeline 2, parameters sharded", "llama", 8,
         {"parallel": {"data": 2, "tensor": 2, "pipeline": 2, "shard": 3}}),
    Case("one process", "mixture", 1),
    Case("one process, bf16", "bert", 1, {"training": {"precision": "bf16"}}),
    Case("one process", "t5", 1),
    Case("one process, documents apart", "llama packed", 1, {"data": {"packing": "documents"}}),
    Case("one process, selective recompute", "gpt", 1, {"training": {"recompute": "selective"}}),
    Case("one process, recompute of 3 blocks, every second", "llama", 1,
         {"training": {"recompute": "full", "recompute_layers": 3, "recompute_every": 2}}),
    Case("expert 2", "mixture", 2, {"parallel": {"data": 2, "expert": 2}}),
    Case("tensor 2", "bert", 2, {"parallel": {"tensor": 2}}),
    Case("pipeline 2, recompute", "t5", 2, {"parallel": {"pipeline": 2}, "training": {"recompute": "full"}}),
    Case("tensor 2, sequence split", "llama", 2, {"parallel": {"tensor": 2, "sequence": True}}),
    Case("context 2", "gpt", 2, {"parallel": {"context": 2}}),
    Case("pipeline 2, gpipe", "llama", 2, {"parallel": {"pipeline": 2, "schedule": "gpipe"}}),
    Case("pipeline 2, interleaved", "llama tied", 2, {"parallel": {"pipeline": 2, "virtual": 2}}),
    Case("pipeline 2, zero bubble", "llama", 2, {"parallel": {"pipeline": 2, "schedule": "zero_bubble"}}),
    Case("pipeline 2, zero bubble as a V", "gpt", 2,
         {"parallel": {"pipeline": 2, "schedule": "zero_bubble", "virtual": 2}}),
    Case("expert 2 x pipeline 2", "mixture", 4, {"parallel": {"data": 2, "expert": 2, "pipeline": 2}}),
    Case("expert 2 x data 2, parameters sharded", "mixture", 4, {"parallel": {"data": 4, "expert": 2, "shard": 3}}),
    Case("data 2, optimizer sharded", "gpt", 2, {"parallel": {"data": 2, "shard": 1}}),
    Case("data 2, parameters sharded and offloaded", "gpt", 2, {"parallel": {"data": 2, "shard": 3, "offload": True}}),
    Case("data 2 x pipeline 2, gradients sharded and offloaded", "llama tied", 4,
         {"parallel": {"data": 2, "pipeline": 2, "shard": 2, "offload": True}}),
    Case("context 2 x tensor 2, sequence split", "llama", 4,
         {"parallel": {"context": 2, "tensor": 2, "sequence": True}}),
    *(Case("one process", model, 1) for model in RELATIVES),
    Case("tensor 2", "bloom", 2, {"parallel": {"tensor": 2}}),
    Case("pipeline 2", "gemma", 2, {"parallel": {"pipeline": 2}}),
    Case("data 2, parameters sharded", "exaone", 2, {"parallel": {"data": 2, "shard": 3}}),
    Case("tensor 2, recompute", "neox", 2, {"parallel": {"tensor": 2}, "training": {"recompute": "full"}}),
    Case("data 2, optimizer sharded", "opt", 2, {"parallel": {"data": 2, "shard": 1}}),
    Case("pipeline 2, recompute", "phi3", 2, {"parallel": {"pipeline": 2}, "training": {"recompute": "full"}}),
)  # fmt: skip

_WIDTH = max(len(case.name) for case in CASES)


@dataclass(frozen=True)
class Row:
    """Of one layout. Bytes of the first rank of the first stage, on the device; `error`: the largest of all ranks,
    relative, of the host's memory too where there is offload."""

    case: Case
    foretold: int
    measured: int
    error: float

    @property
    def is_good(self) -> bool:
        return self.error <= TOLERANCE

    def as_dict(self) -> dict[str, Any]:
        facts = {"layout": self.case.name, "model": self.case.model, "processes": self.case.processes}
        sizes = {"foretold_bytes": self.foretold, "measured_bytes": self.measured}
        return {**facts, **sizes, "error": self.error, "is_good": self.is_good}


def table(rows: Sequence[Row]) -> str:
    lines = [f"{'layout':{_WIDTH}} {'model':12} {'dry run':>9} {'measured':>9} {'worst rank':>10}", *map(line_of, rows)]
    good = sum(row.is_good for row in rows)
    return "\n".join([*lines, f"{good} of {len(rows)} within {TOLERANCE:.0%}"])


def line_of(row: Row) -> str:
    sizes = f"{readable_bytes(row.foretold):>9} {readable_bytes(row.measured):>9} {row.error:10.2%}"
    return f"{row.case.name:{_WIDTH}} {row.case.model:12} {sizes}  {'good' if row.is_good else 'WRONG'}"


def compare(cases: Sequence[Case] = CASES, tell: Callable[[Row], None] = lambda row: None) -> list[Row]:
    """Groups of one size run in one go. tell: called with each row as soon as it is known."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        data = str(write_tokens(Path(folder)))
        for processes in sorted({case.processes for case in cases}):
            group = [case for case in cases if case.processes == processes]
            jobs = [recipe_of(data, case).model_dump(mode="json") for case in group]
            measured = results_of(processes, "hanbit.bench.memory_worker", jobs, Path(folder))
            for case, peaks in zip(group, measured, strict=True):
                rows.append(_row(case, recipe_of(data, case), peaks))
                tell(rows[-1])
    return rows


def recipe_of(data: str, case: Case) -> Recipe:
    parallel = case.settings.get("parallel", {})
    sections: dict[str, Any] = {
        "name": "memory",
        "model": {**MODELS[case.model], "layers": LAYERS},
        "data": {"train": data, "split": 0.0, "verify": False, **case.settings.get("data", {})},
        "batch": {"micro_batch": 2, "global_batch": 2 * MICRO_BATCHES * parallel.get("data", 1), "sequence_length": 64},
        "training": {"steps": 2, "device": "cpu", **case.settings.get("training", {})},
        "parallel": parallel,
    }
    return resolve(Recipe.model_validate(sections), world_size=case.processes, vocabulary=None).recipe


def _row(case: Case, recipe: Recipe, peaks: Sequence[tuple[int, int]]) -> Row:
    """peaks: of every rank bytes of the device and of the host. Ranks of one stage hold the same, up to what does not
    divide."""
    stages = recipe.parallel.pipeline
    foretold = [memory_of(recipe, stage) for stage in range(stages)]
    errors = []
    for rank, (device, host) in enumerate(peaks):
        told = foretold[rank * stages // len(peaks)]
        errors += [relative(told.total, device)]
        errors += [relative(told.host_total, host)] if recipe.parallel.offload else []
    return Row(case, foretold[0].total, peaks[0][0], max(errors))

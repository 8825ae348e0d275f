"""`hanbit bench train`: seconds per step of Hanbit, a bare PyTorch loop and the Hugging Face Trainer, taking turns.

All start from the same weights and see the same batches and learning rates; their losses must agree before any
ratio is printed. The Trainer runs in a Python that has transformers (`--peer-python`).
"""

import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from hanbit.bench.turns import Contestant, ratios, take_turns
from hanbit.checkpoint.model_folder import save_model
from hanbit.common.errors import LaunchError
from hanbit.config.load import load_recipe
from hanbit.config.recipe import Recipe
from hanbit.config.resolve import resolve
from hanbit.config.write import to_yaml
from hanbit.data.megatron import TokenWriter
from hanbit.data.samples import open_samples
from hanbit.models.initial import initial_value
from hanbit.models.registry import family_of
from hanbit.optim.schedule import Schedule
from hanbit.parallel.grid import choose_device
from hanbit.train.setup import build_schedule, known
from hanbit.train.speed import processor_of

LOSS_TOLERANCE = 2e-3  # relative, over all steps: same work, though sums run in another order


@dataclass(frozen=True)
class Plan:
    recipe: str
    peer_script: Path
    peer_python: str
    rounds: int = 7
    steps: int = 2
    warm_up: int = 2
    threads: int | None = None

    @property
    def total_steps(self) -> int:
        return self.warm_up + self.rounds * self.steps


def measure(plan: Plan, compiled: bool, overrides: list[str]) -> tuple[list[Contestant], int]:
    """Contestants hanbit, bare loop, Trainer with their seconds per step, and the tokens of a step.

    Raises LaunchError if their losses disagree.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recipe = write_recipe(folder, plan, compiled, overrides)
        _write_peer_files(folder, recipe, plan)
        environment = {**os.environ, **({"OMP_NUM_THREADS": str(plan.threads)} if plan.threads else {})}
        worker = [sys.executable, "-m", "hanbit.bench.train_worker"]
        contestants = [
            Contestant("hanbit", [*worker, "hanbit", str(folder / "recipe.yaml")], environment),
            Contestant("bare loop", [*worker, "bare", str(folder / "recipe.yaml")], environment),
            Contestant("Trainer", [plan.peer_python, str(plan.peer_script), str(folder / "peer.json")], environment),
        ]
        try:
            take_turns(contestants, plan.rounds, plan.steps, plan.warm_up, folder)
        except LaunchError as problem:
            logs = "\n".join(path.read_text()[-2000:] for path in folder.glob("*.log"))
            raise LaunchError(f"{problem}\n{logs}") from None
    _check_same_work(contestants)
    return contestants, recipe.batch.global_batch * recipe.batch.sequence_length


def table(contestants: list[Contestant], tokens_per_step: int) -> list[dict[str, float | str]]:
    """A row each: median seconds per step, tokens per second, how many times faster Hanbit was (median, min, max)."""
    rows: list[dict[str, float | str]] = []
    for contestant in contestants:
        faster = sorted(ratios(contestants[0], contestant))
        rows.append(
            {
                "name": contestant.name,
                "step_seconds": round(contestant.median, 4),
                "tokens_per_second": round(tokens_per_step / contestant.median, 1),
                "hanbit_over_it": round(float(np.median(faster)), 3),
                "lowest": round(faster[0], 3),
                "highest": round(faster[-1], 3),
            }
        )
    return rows


def write_recipe(folder: Path, plan: Plan, compiled: bool, overrides: list[str]) -> Recipe:
    """recipe.yaml, resolved for this machine, and the tokens that it trains on."""
    settings = [
        f"data.train={folder / 'tokens'}",
        "data.split=0",
        f"training.steps={plan.total_steps}",
        "training.tokens=null",
        f"training.compile={'true' if compiled else 'false'}",
        "optimizer.warmup_steps=2",
        *overrides,
    ]
    loaded = load_recipe(plan.recipe, settings).recipe
    device = choose_device(loaded.training.device)
    processor = processor_of(device)
    recipe = resolve(loaded, world_size=1, vocabulary=None, device=device.type, processor=processor).recipe
    random = np.random.default_rng(0)
    count = recipe.batch.global_batch * plan.total_steps * recipe.batch.sequence_length + 1
    vocabulary = known(recipe.model.vocabulary)
    with TokenWriter(folder / "tokens", vocabulary) as writer:
        writer.add(random.zipf(1.2, count) % vocabulary)
    (folder / "recipe.yaml").write_text(to_yaml(recipe))
    return recipe


def _write_peer_files(folder: Path, recipe: Recipe, plan: Plan) -> None:
    with torch.device("meta"):
        model = family_of(recipe.model).build(recipe.model)
    seed = recipe.training.seed
    weights = {n: initial_value(recipe.model, n, tuple(p.shape), seed) for n, p in model.named_parameters()}
    save_model(folder / "model", recipe.model, weights, None, facts={})
    samples = open_samples(folder / "tokens", recipe.batch.sequence_length, seed=seed)
    tokens = torch.from_numpy(samples.batch(range(recipe.batch.global_batch * plan.total_steps)))
    save_file({"tokens": tokens}, folder / "batches.safetensors")
    schedule: Schedule = build_schedule(recipe)
    micro_batch = known(recipe.batch.micro_batch)
    settings = {
        "model": str(folder / "model"),
        "batches": str(folder / "batches.safetensors"),
        "micro_batch": micro_batch,
        "accumulate": recipe.batch.global_batch // micro_batch,
        "learning_rates": [schedule.learning_rate(step + 1) for step in range(plan.total_steps)],
        "betas": recipe.optimizer.betas,
        "epsilon": recipe.optimizer.epsilon,
        "weight_decay": recipe.optimizer.weight_decay,
        "clip": recipe.optimizer.clip_grad_norm,
        "compile": recipe.training.compile,
    }
    (folder / "peer.json").write_text(json.dumps(settings))


def _check_same_work(contestants: list[Contestant]) -> None:
    first = contestants[0]
    for other in contestants[1:]:
        for step, (ours, theirs) in enumerate(zip(first.results, other.results, strict=True), 1):
            if abs(ours - theirs) > LOSS_TOLERANCE * abs(theirs):
                raise LaunchError(
                    f"step {step}: {first.name} has loss {ours}, {other.name} {theirs}: not the same work"
                )

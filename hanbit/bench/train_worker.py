"""A contestant of `hanbit bench train`: Hanbit's own training step, or a bare PyTorch loop on the same model.

python -m hanbit.bench.train_worker hanbit|bare RECIPE.yaml
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F

from hanbit.config.load import load_recipe
from hanbit.config.recipe import Recipe
from hanbit.config.resolve import resolve
from hanbit.models.layers.attend import causal
from hanbit.models.registry import family_of
from hanbit.parallel.grid import choose_device, make_grid
from hanbit.parallel.pieces import local_tensor
from hanbit.train.loop import next_batch, one_step
from hanbit.train.run import build
from hanbit.train.setup import Training


def hanbit_step(training: Training) -> Callable[[], float]:
    return lambda: one_step(training)[0]["loss"]


def bare_step(recipe: Recipe, training: Training) -> Callable[[], float]:
    """What one would write by hand: the model, torch.optim.AdamW, clip_grad_norm_, no other thing.

    The same start, the same batches and the same learning rates; `training` only lends them.
    """
    model = family_of(recipe.model).build(recipe.model)
    model.load_state_dict({name: local_tensor(p) for name, p in training.model.parameters.items()}, strict=False)
    run: Any = torch.compile(_Plain(model)) if recipe.training.compile else _Plain(model)
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    settings = recipe.optimizer
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}],
        betas=settings.betas,
        eps=settings.epsilon,
        fused=True,
    )
    count = training.batches.count

    def step() -> float:
        whole = next_batch(training)
        for group in optimizer.param_groups:
            group["lr"] = training.schedule.learning_rate(training.step + 1)
        optimizer.zero_grad()
        total = 0.0
        for batch, target in zip(whole["tokens"].chunk(count), whole["targets"].chunk(count), strict=True):
            loss = F.cross_entropy(run(batch).flatten(0, 1), target.flatten()) / count
            loss.backward()
            total += loss.item()
        if settings.clip_grad_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), settings.clip_grad_norm)
        optimizer.step()
        training.step += 1
        training.samples_seen += recipe.batch.global_batch
        return total

    return step


class _Plain(nn.Module):
    """The three parts of a model in one forward."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.attend = causal()

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        model = cast(Any, self.model)
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        return model.head(model.trunk(model.embed(tokens, positions), positions, self.attend))


def main() -> None:
    kind, path = sys.argv[1:]
    recipe = resolve(load_recipe(path).recipe, world_size=1, vocabulary=None).recipe
    training = build(recipe, make_grid(1, 1, 1, choose_device(recipe.training.device)))
    step = hanbit_step(training) if kind == "hanbit" else bare_step(recipe, training)
    print(json.dumps({"ready": kind, "torch": torch.__version__, "threads": torch.get_num_threads()}), flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        losses = [step() for _ in range(json.loads(line)["steps"])]
        print(json.dumps({"seconds": time.perf_counter() - began, "results": losses}), flush=True)


if __name__ == "__main__":
    main()

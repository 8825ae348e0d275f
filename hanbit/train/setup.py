"""Everything a run needs, built in order, before the first step: the grid, the model, the optimizer, the batches."""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from hanbit.checkpoint.model_folder import read_tensors
from hanbit.common.errors import ConfigError
from hanbit.config.model import ModelConfig
from hanbit.config.recipe import Recipe
from hanbit.data.samples import Samples
from hanbit.models.initial import initial_value
from hanbit.models.layers.attend import causal
from hanbit.models.registry import family_of
from hanbit.optim.adamw import AdamW, Settings
from hanbit.optim.schedule import Schedule
from hanbit.parallel.apply import Options, ParallelModel, parallelize
from hanbit.parallel.grid import Grid
from hanbit.parallel.pieces import local_tensor
from hanbit.parallel.step import MicroBatches

logger = logging.getLogger(__name__)


@dataclass
class Training:
    """The parts of a run; `step` counts optimizer steps done, `samples_seen` sequences of the whole world."""

    recipe: Recipe
    model: ParallelModel
    optimizer: AdamW
    schedule: Schedule
    batches: MicroBatches
    samples: Samples
    validation: Samples | None
    step: int = 0
    samples_seen: int = 0

    @property
    def steps(self) -> int:
        return known(self.recipe.training.steps)

    @property
    def tokens_per_step(self) -> int:
        return self.recipe.batch.global_batch * self.recipe.batch.sequence_length


def known(value: int | str) -> int:
    """A field that the resolver has filled."""
    assert isinstance(value, int), f"{value!r} was not resolved"
    return value


def build_model(recipe: Recipe, grid: Grid) -> ParallelModel:
    """This process's part of the model, without its numbers."""
    family = family_of(recipe.model)
    with torch.device("meta"):
        model = family.build(recipe.model)
    options = Options(
        shard=recipe.parallel.shard,
        recompute=recipe.training.recompute == "full",
        compile=recipe.training.compile,
    )
    return parallelize(model, family.plan, units_of(recipe.model), grid, causal(), options)


def units_of(config: ModelConfig) -> dict[str, int]:
    """How many indivisible units each unit word of a plan has in this model."""
    names = ("heads", "key_value_heads", "inner", "vocabulary")
    return {name: known(getattr(config, name)) for name in names if hasattr(config, name)}


def fill_model(recipe: Recipe, model: ParallelModel) -> None:
    """The numbers to start from: a model folder's, or fresh ones that depend on the seed and the name alone."""
    if recipe.training.initial_model is None:
        seed = recipe.training.seed
        model.fill(lambda name, shape: initial_value(recipe.model, name, shape, seed))
        return
    folder = Path(recipe.training.initial_model)
    tensors = read_tensors(folder)
    missing = sorted(set(model.parameters) - set(tensors))
    if missing:
        raise ConfigError(f"training.initial_model={folder} has no {missing[0]}: it is of another shape than model")
    model.fill(lambda name, shape: _checked(folder, name, tensors[name], shape))


def _checked(folder: Path, name: str, tensor: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    if tuple(tensor.shape) != shape:
        raise ConfigError(f"training.initial_model={folder}: {name} is {tuple(tensor.shape)}, the recipe wants {shape}")
    return tensor


def build_optimizer(recipe: Recipe, model: ParallelModel) -> AdamW:
    settings = recipe.optimizer
    return AdamW(
        {name: local_tensor(parameter) for name, parameter in model.parameters.items()},
        decayed={name for name, piece in model.pieces.items() if len(piece.shape) >= 2},
        settings=Settings(settings.betas, settings.epsilon, settings.weight_decay),
    )


def build_schedule(recipe: Recipe) -> Schedule:
    optimizer = recipe.optimizer
    lowest = optimizer.min_learning_rate
    assert not isinstance(lowest, str)
    return Schedule(
        optimizer.schedule,
        optimizer.learning_rate,
        lowest,
        known(optimizer.warmup_steps),
        known(recipe.training.steps),
    )


def build_batches(recipe: Recipe, model: ParallelModel) -> MicroBatches:
    micro_batch = known(recipe.batch.micro_batch)
    count = recipe.batch.global_batch // (model.grid.data.size * micro_batch)
    is_bf16 = recipe.training.precision == "bf16"
    return MicroBatches(model, count, micro_batch, recipe.batch.sequence_length, is_bf16)

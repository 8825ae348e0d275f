"""Everything a run needs, built in order, before the first step: the grid, the model, the optimizer, the batches."""

import logging
from dataclasses import dataclass

import torch
from torch import nn

from hanbit.checkpoint.model_folder import read_tensors
from hanbit.checkpoint.model_weights import FolderTensors
from hanbit.common.errors import ConfigError
from hanbit.config.model import MixtureConfig, ModelConfig, T5Config
from hanbit.config.ramp_up import size_at
from hanbit.config.recipe import Recipe
from hanbit.data.numbered import Numbered
from hanbit.data.spans import lengths_for
from hanbit.models.initial import initial_value
from hanbit.models.registry import family_of
from hanbit.optim.adamw import AdamW, Settings
from hanbit.optim.schedule import Schedule
from hanbit.parallel.agree import together
from hanbit.parallel.apply import Options, ParallelModel, parallelize
from hanbit.parallel.compile_cache import remove_unfinished_libraries
from hanbit.parallel.experts import NO_ROUTER_LOSSES, RouterCoefficients
from hanbit.parallel.grid import Grid, make_grid
from hanbit.parallel.objectives import ANSWERS, MASKED, NEXT_TOKENS, Objective
from hanbit.parallel.pieces import local_tensor
from hanbit.parallel.recompute import Recompute
from hanbit.parallel.schedules import CarriedShapes
from hanbit.parallel.step import MicroBatches
from hanbit.parallel.update import own_rows
from hanbit.train.precision import LossScale
from hanbit.train.speed import Speed
from hanbit.tuning.lora import add_lora, initial_matrix, is_lora

logger = logging.getLogger(__name__)


AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16, "fp8": torch.bfloat16}


@dataclass
class Training:
    """The parts of a run, and how far it is, all replicas together.

    step: optimizer steps done. samples_seen: sequences. tokens_seen: targets that counted. validation: sets by name, ""
    where there is one without.
    """

    recipe: Recipe
    model: ParallelModel
    optimizer: AdamW
    schedule: Schedule
    batches: MicroBatches
    samples: Numbered
    validation: dict[str, Numbered]
    speed: Speed
    loss_scale: LossScale | None  # of fp16
    step: int = 0
    samples_seen: int = 0
    tokens_seen: int = 0

    @property
    def steps(self) -> int:
        return known(self.recipe.training.steps)

    @property
    def global_batch(self) -> int:
        """Sequences of the next step."""
        return size_at(self.recipe.batch, self.samples_seen)


def known(value: int | str) -> int:
    """A field that the resolver has filled."""
    assert isinstance(value, int), f"{value!r} was not resolved"
    return value


def processes_of(recipe: Recipe) -> int:
    """How many processes a resolved recipe runs on."""
    parallel = recipe.parallel
    return parallel.pipeline * known(parallel.data) * parallel.context * parallel.tensor


def grid_of(recipe: Recipe, device: torch.device) -> Grid:
    """The running processes, arranged as the recipe's section `parallel` has them."""
    parallel = recipe.parallel
    return make_grid(
        parallel.pipeline,
        known(parallel.data),
        parallel.tensor,
        device,
        context=parallel.context,
        sequence=parallel.sequence,
        expert=parallel.expert,
    )


def build_model(recipe: Recipe, grid: Grid) -> ParallelModel:
    """This process's part of the model, without its numbers."""
    family, tuning, training = family_of(recipe.model), recipe.tuning, recipe.training
    plan = family.plan
    with torch.device("meta"):
        model: nn.Module = family.build(recipe.model)
    if tuning is not None:
        targets = None if tuning.targets == "all" else tuning.targets
        plan = add_lora(model, plan, tuning.rank, tuning.alpha / tuning.rank, targets)
    if training.compile:
        remove_unfinished_libraries()
    parallel = recipe.parallel
    assert parallel.schedule != "auto"
    options = Options(
        shard=parallel.shard,
        offload=parallel.offload,
        recompute=Recompute(training.recompute, training.recompute_layers, training.recompute_every),
        compile=training.compile,
        schedule=parallel.schedule,
        virtual=parallel.virtual,
        layers_per_stage=None if parallel.layers_per_stage == "balanced" else tuple(parallel.layers_per_stage),
        router=router_coefficients_of(recipe.model),
        fp8=recipe.training.precision == "fp8",
    )
    units, objective = units_of(recipe.model), objective_of(recipe)
    return parallelize(model, plan, units, grid, family.make_attend, objective, options)


def router_coefficients_of(model: ModelConfig) -> RouterCoefficients:
    if not isinstance(model, MixtureConfig):
        return NO_ROUTER_LOSSES
    return RouterCoefficients(model.balance_coefficient, model.z_coefficient)


def objective_of(recipe: Recipe) -> Objective:
    """What the recipe's task learns from a batch."""
    if recipe.model.family == "bert":
        return MASKED
    leaves_targets_out = is_conversations(recipe) or recipe.data.packing == "documents"
    return ANSWERS if leaves_targets_out else NEXT_TOKENS


def is_conversations(recipe: Recipe) -> bool:
    """Does it learn from conversations? Tuning always does."""
    return recipe.tuning is not None or recipe.data.is_conversations


def units_of(config: ModelConfig) -> dict[str, int]:
    """How many indivisible units each unit word of a plan has in this model."""
    names = ("heads", "key_value_heads", "inner", "expert_inner", "vocabulary")
    return {name: known(getattr(config, name)) for name in names if hasattr(config, name)}


def fill_model(recipe: Recipe, model: ParallelModel) -> None:
    """The numbers to start from: a model folder's, or fresh ones that depend on the seed and the name alone."""
    seed, tensors = recipe.training.seed, open_start(recipe, model)

    def value(name: str, shape: tuple[int, ...]) -> torch.Tensor:
        if is_lora(name):
            return initial_matrix(name, shape, seed)
        return initial_value(recipe.model, name, shape, seed) if tensors is None else _finite(tensors, name)

    with together(ConfigError):  # each process reads only what it has
        model.fill(value)


def _finite(tensors: FolderTensors, name: str) -> torch.Tensor:
    """Raises ConfigError: a start from NaN would only show as a loss, after everything is set up."""
    tensor = tensors[name]
    if not tensor.isfinite().all():
        raise ConfigError(f"{tensors.folder}: {name} has values that are not finite. Start from another model folder")
    return tensor


def open_start(recipe: Recipe, model: ParallelModel) -> FolderTensors | None:
    """The model folder to start from, None for fresh numbers. Raises ConfigError where its shapes are others."""
    tuning = recipe.tuning
    start = recipe.training.initial_model if tuning is None else tuning.model
    if start is None:
        return None
    key = "training.initial_model" if tuning is None else "tuning.model"
    tensors = read_tensors(start)
    for name, piece in sorted(model.pieces.items()):
        found = tensors.shapes.get(name)
        if found is None and not is_lora(name):
            raise ConfigError(f"{key}={start} has no {name}: it is of another shape than model")
        if found is not None and found != piece.shape:
            raise ConfigError(f"{key}={start}: {name} is {found}, the recipe wants {piece.shape}")
    return tensors


def build_optimizer(recipe: Recipe, model: ParallelModel) -> AdamW:
    settings = recipe.optimizer
    return AdamW(
        own_rows(model, {name: local_tensor(parameter) for name, parameter in model.trained.items()}),
        decayed={name for name in model.trained if len(model.pieces[name].shape) >= 2},
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
    return MicroBatches(
        model, micro_batch, count, carried_shapes(recipe, model.grid), AUTOCAST[recipe.training.precision]
    )


def carried_shapes(recipe: Recipe, grid: Grid) -> CarriedShapes:
    """What travels between stages: hidden of our part of the sequence; in T5, later, also what the encoder gave."""
    model, length = recipe.model, recipe.batch.sequence_length
    micro_batch = known(recipe.batch.micro_batch)
    hidden = (micro_batch, grid.time_of_part(length), model.hidden)
    if not isinstance(model, T5Config):
        return lambda layer: (hidden,)
    decoder = (micro_batch, lengths_for(length).decoder, model.hidden)
    return lambda layer: (hidden,) if layer <= model.layers else (decoder, hidden)

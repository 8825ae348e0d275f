"""Fill every `auto` and say why; check that sizes fit together before anything is started. Pure: no files, no torch.

What only the machine knows, the number of processes, the tokenizer's size, the device, is handed in.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hanbit.common.capability import Processor
from hanbit.config.checks import known, lacking, misfits, refuse, unfillable
from hanbit.config.model import BertConfig, LlamaConfig, MixtureConfig, ModelConfig, T5Config, num_layers
from hanbit.config.pipeline_checks import suits_schedule, wanted_micro_batches
from hanbit.config.ramp_up import samples_after, sizes_of, steps_until
from hanbit.config.recipe import Recipe

_LARGEST_MICRO_BATCH = 8
_MOST_WARMUP_STEPS = 2000

Decide = Callable[[str, Any, str], Any]


@dataclass(frozen=True)
class Decision:
    """What an `auto` became."""

    key: str
    value: Any
    reason: str


@dataclass(frozen=True)
class Resolved:
    """`notes`: what is allowed and perhaps not meant."""

    recipe: Recipe
    decisions: tuple[Decision, ...]
    notes: tuple[str, ...] = ()


def resolve(
    recipe: Recipe,
    *,
    world_size: int,
    vocabulary: int | None,
    device: str | None = None,
    processor: Processor | None = None,
    origins: Mapping[str, str] | None = None,
) -> Resolved:
    """Raises ConfigError with all problems and the values that would fit.

    world_size: processes. vocabulary: ids of the tokenizer, and of the task, where one is known. device: cpu or cuda,
    what `training.device=auto` becomes; None leaves it to the process that trains. processor: what decides and checks
    training.precision; None leaves that, too. origins: dotted key -> place, for messages.
    """
    refuse(unfillable(recipe, vocabulary), origins or {})
    filled = fill(recipe, world_size, vocabulary, device, processor)
    refuse([*misfits(filled.recipe, world_size, vocabulary), *lacking(filled.recipe, processor)], origins or {})
    return Resolved(filled.recipe, filled.decisions, tuple(_notes(filled.recipe)))


def fill(
    recipe: Recipe,
    world_size: int,
    vocabulary: int | None,
    device: str | None = None,
    processor: Processor | None = None,
) -> Resolved:
    """Every `auto` of a recipe without `unfillable` problems; model.vocabulary stays if no tokenizer is known."""
    decisions: list[Decision] = []

    def decide(key: str, value: Any, reason: str) -> Any:
        decisions.append(Decision(key, value, reason))
        return value

    recipe = _changed(recipe, model=_model(recipe.model, vocabulary, decide))
    recipe = _changed(recipe, training=_training(recipe, device, processor, decide))
    recipe = _changed(recipe, parallel=_parallel(recipe, world_size, decide))
    recipe = _changed(recipe, batch=_batch(recipe, decide))
    recipe = _changed(recipe, optimizer=_optimizer(recipe, decide))
    for name in ("checkpoint", "validation"):
        recipe = _changed(recipe, **{name: _every_steps(recipe, name, decide)})
    return Resolved(recipe, tuple(decisions))


def expected_processes(recipe: Recipe) -> int:
    """What the section `cluster` has; without it what `parallel` multiplies to, one replica where that is open."""
    parallel = recipe.parallel
    if recipe.cluster is not None:
        return recipe.cluster.processes
    data = 1 if parallel.data == "auto" else parallel.data
    return parallel.tensor * parallel.context * parallel.pipeline * data


def _changed(section: Any, **changes: Any) -> Any:
    return section.model_copy(update=changes)


def _model(model: ModelConfig, vocabulary: int | None, decide: Decide) -> Any:
    changes: dict[str, Any] = {}
    if model.vocabulary == "auto" and vocabulary is not None:
        changes["vocabulary"] = decide("model.vocabulary", vocabulary, _rows(model))
    if isinstance(model, LlamaConfig) and model.key_value_heads == "auto":
        changes["key_value_heads"] = decide("model.key_value_heads", model.heads, "as many as model.heads")
    if isinstance(model, LlamaConfig | T5Config) and model.head_dim == "auto":
        width = model.hidden // model.heads
        changes["head_dim"] = decide("model.head_dim", width, f"{model.hidden} hidden / {model.heads} heads")
    if isinstance(model, T5Config) and model.decoder_layers == "auto":
        changes["decoder_layers"] = decide("model.decoder_layers", model.layers, "as many as model.layers")
    if model.inner == "auto":
        changes["inner"] = decide("model.inner", *_inner(model))
    if isinstance(model, MixtureConfig) and model.expert_inner == "auto":
        width = changes.get("inner", model.inner)
        changes["expert_inner"] = decide("model.expert_inner", width, "as wide as model.inner")
    return _changed(model, **changes)


def _rows(model: ModelConfig) -> str:
    return "the tokenizer's size" + (", and what the task adds" if isinstance(model, BertConfig | T5Config) else "")


def _inner(model: ModelConfig) -> tuple[int, str]:
    if not isinstance(model, LlamaConfig):
        return 4 * model.hidden, f"4 x {model.hidden} hidden"
    return -(-8 * model.hidden // (3 * 64)) * 64, f"8/3 x {model.hidden} hidden, up to a multiple of 64"


def _training(recipe: Recipe, device: str | None, processor: Processor | None, decide: Decide) -> Any:
    training, batch = recipe.training, recipe.batch
    changes: dict[str, Any] = {}
    if training.device == "auto" and device is not None:
        changes["device"] = decide("training.device", device, "what this machine has")
    if training.precision == "auto" and processor is not None:
        capability = processor.capability
        changes["precision"] = decide("training.precision", capability.auto, f"{processor} {capability.why}")
    if training.steps == "auto":
        assert training.tokens is not None
        steps = steps_until(batch, -(-training.tokens // batch.sequence_length))
        reason = (
            f"{training.tokens} tokens / ({batch.global_batch} sequences x {batch.sequence_length} tokens), rounded up"
        )
        changes |= {"steps": decide("training.steps", steps, reason), "tokens": None}
    return _changed(training, **changes)


def _parallel(recipe: Recipe, world_size: int, decide: Decide) -> Any:
    parallel = recipe.parallel
    if parallel.schedule == "auto":
        name = "1f1b" if parallel.virtual == 1 else "interleaved"
        if parallel.pipeline > 1:  # a run without stages need not hear of it
            decide("parallel.schedule", name, f"parallel.virtual={parallel.virtual}")
        parallel = _changed(parallel, schedule=name)
    if parallel.data != "auto":
        return parallel
    others = parallel.tensor * parallel.context * parallel.pipeline
    processes = "1 process" if world_size == 1 else f"{world_size} processes"
    context = f" x context {parallel.context}" if parallel.context > 1 else ""
    reason = f"{processes} / (tensor {parallel.tensor}{context} x pipeline {parallel.pipeline})"
    return _changed(parallel, data=decide("parallel.data", max(1, world_size // others), reason))


def _batch(recipe: Recipe, decide: Decide) -> Any:
    """As large as divides, up to 8, and leaves the pipeline as many micro-batches as its schedule wants."""
    batch, pipeline = recipe.batch, recipe.parallel.pipeline
    if batch.micro_batch != "auto":
        return batch
    share = max(1, math.gcd(*sizes_of(batch)) // known(recipe.parallel.data))
    sizes = range(1, _LARGEST_MICRO_BATCH + 1)
    fitting = [size for size in sizes if share % size == 0 and suits_schedule(share // size, recipe)]
    reason = f"largest divisor up to {_LARGEST_MICRO_BATCH} of a replica's {share} sequences"
    if pipeline > 1:
        reason += f" that leaves {wanted_micro_batches(recipe)} micro-batches"
    return _changed(batch, micro_batch=decide("batch.micro_batch", max(fitting, default=1), reason))


def _optimizer(recipe: Recipe, decide: Decide) -> Any:
    optimizer, steps = recipe.optimizer, known(recipe.training.steps)
    changes: dict[str, Any] = {}
    if optimizer.min_learning_rate == "auto":
        lowest = float(f"{optimizer.learning_rate / 10:.15g}")  # 0.0003, not 0.00030000000000000003
        reason = f"a tenth of {optimizer.learning_rate}"
        changes["min_learning_rate"] = decide("optimizer.min_learning_rate", lowest, reason)
    if optimizer.warmup_steps == "auto":
        warmup = min(_MOST_WARMUP_STEPS, -(-steps // 100))
        reason = f"a hundredth of {steps} steps, at most {_MOST_WARMUP_STEPS}"
        changes["warmup_steps"] = decide("optimizer.warmup_steps", warmup, reason)
    return _changed(optimizer, **changes)


def _every_steps(recipe: Recipe, name: str, decide: Decide) -> Any:
    section, steps = getattr(recipe, name), known(recipe.training.steps)
    if section.every_steps != "auto":
        return section
    every = max(1, steps // 10)
    return _changed(section, every_steps=decide(f"{name}.every_steps", every, f"a tenth of {steps} steps"))


def passes_over(recipe: Recipe, train_sequences: int) -> str:
    """How often a run sees its data: worth a look, and known only when the data is open."""
    passes = samples_after(recipe.batch, known(recipe.training.steps)) / train_sequences
    times = "1 pass" if f"{passes:.2g}" == "1" else f"{passes:.2g} passes"
    return f"the run takes {times} over {train_sequences} training sequences"


def _notes(recipe: Recipe) -> list[str]:
    parallel, notes = recipe.parallel, []
    if parallel.shard and parallel.data == parallel.context == 1:
        notes.append(
            f"parallel.shard={parallel.shard} changes nothing with parallel.data=1: there is no replica beside"
        )
    if parallel.sequence and parallel.tensor == 1:
        notes.append("parallel.sequence=true changes nothing with parallel.tensor=1: one process has all of a sequence")
    if parallel.pipeline == 1 and parallel.schedule not in ("auto", "1f1b"):
        notes.append(
            f"parallel.schedule={parallel.schedule} changes nothing with parallel.pipeline=1: there is one stage"
        )
    layers, training = num_layers(recipe.model), recipe.training
    for name in ("recompute_layers", "recompute_every"):
        value = getattr(training, name)
        if isinstance(value, int) and value > layers:
            notes.append(f"training.{name}={value} is more than the model's {layers} layers")
    return notes

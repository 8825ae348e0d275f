"""Fill every `auto` and say why; check that sizes fit together before anything is started. Pure: no files, no torch."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML

from hanbit.common.errors import ConfigError
from hanbit.config.checks import check
from hanbit.config.model import GPTConfig, LlamaConfig, ModelConfig
from hanbit.config.recipe import Recipe
from hanbit.config.section import Section


@dataclass(frozen=True)
class Decision:
    """What an `auto` became."""

    key: str
    value: Any
    reason: str


@dataclass(frozen=True)
class Resolved:
    recipe: Recipe
    decisions: tuple[Decision, ...]


def resolve(recipe: Recipe, *, world_size: int, vocabulary: int | None) -> Resolved:
    """`vocabulary`: the tokenizer's size where one is known. Raises ConfigError with the values that would fit."""
    decisions: list[Decision] = []

    def decided(key: str, value: Any, reason: str) -> Any:
        decisions.append(Decision(key, value, reason))
        return value

    recipe = _with(recipe, model=_model(recipe.model, vocabulary, decided))
    recipe = _with(recipe, training=_training(recipe, decided))
    recipe = _with(recipe, parallel=_parallel(recipe, world_size, decided))
    recipe = _with(recipe, batch=_batch(recipe, decided))
    recipe = _with(recipe, optimizer=_optimizer(recipe, decided))
    recipe = _with(recipe, checkpoint=_checkpoint(recipe, decided), validation=_validation(recipe, decided))
    check(recipe, world_size, vocabulary)
    return Resolved(recipe, tuple(decisions))


def to_yaml(recipe: Recipe) -> str:
    """The recipe in full; loading it gives the same recipe."""
    stream = io.StringIO()
    writer = YAML(typ="safe", pure=True)
    writer.default_flow_style = False
    writer.sort_base_mapping_type_on_output = False  # type: ignore[attr-defined]
    writer.dump(recipe.model_dump(mode="json"), stream)
    return stream.getvalue()


Decided = Callable[[str, Any, str], Any]


def _with(section: Any, **changes: Any) -> Any:
    return section.model_copy(update=changes)


def _model(model: ModelConfig, vocabulary: int | None, decided: Decided) -> Section:
    changes: dict[str, Any] = {}
    if model.vocabulary == "auto":
        if vocabulary is None:
            raise ConfigError(
                "model.vocabulary=auto needs a tokenizer beside the token files. Name tokenizer.path or set it"
            )
        changes["vocabulary"] = decided("model.vocabulary", vocabulary, "the tokenizer's size")
    if isinstance(model, LlamaConfig):
        if model.key_value_heads == "auto":
            changes["key_value_heads"] = decided("model.key_value_heads", model.heads, "as many as heads")
        if model.head_dim == "auto":
            if model.hidden % model.heads:
                raise ConfigError(_no_division("model.heads", model.heads, "model.hidden", model.hidden))
            changes["head_dim"] = decided("model.head_dim", model.hidden // model.heads, "hidden / heads")
        if model.inner == "auto":
            inner = -(-8 * model.hidden // (3 * 64)) * 64
            changes["inner"] = decided("model.inner", inner, "8/3 x hidden, up to a multiple of 64")
    elif isinstance(model, GPTConfig) and model.inner == "auto":
        changes["inner"] = decided("model.inner", 4 * model.hidden, "4 x hidden")
    return _with(model, **changes)


def _training(recipe: Recipe, decided: Decided) -> Section:
    training, batch = recipe.training, recipe.batch
    if training.steps != "auto":
        if training.tokens is not None:
            raise ConfigError(
                f"training.steps={training.steps} and training.tokens={training.tokens} both say how long to train. "
                "Set one of them to auto (steps) or null (tokens)"
            )
        return training
    if training.tokens is None:
        raise ConfigError("training.steps=auto needs training.tokens. Set one of them")
    tokens_per_step = batch.global_batch * batch.sequence_length
    steps = max(1, training.tokens // tokens_per_step)
    reason = f"{training.tokens} tokens / ({batch.global_batch} x {batch.sequence_length})"
    return _with(training, steps=decided("training.steps", steps, reason), tokens=None)


def _parallel(recipe: Recipe, world_size: int, decided: Decided) -> Section:
    parallel = recipe.parallel
    if parallel.data != "auto":
        return parallel
    others = parallel.tensor * parallel.pipeline
    data = max(1, world_size // others)
    return _with(
        parallel, data=decided("parallel.data", data, f"{world_size} processes / (tensor x pipeline = {others})")
    )


def _batch(recipe: Recipe, decided: Decided) -> Section:
    """The largest divisor up to 8 that leaves a pipeline at least as many micro-batches as stages."""
    batch, parallel = recipe.batch, recipe.parallel
    if batch.micro_batch != "auto":
        return batch
    assert isinstance(parallel.data, int)
    share = max(1, batch.global_batch // parallel.data)
    fitting = [size for size in range(1, 9) if share % size == 0 and share // size >= parallel.pipeline]
    size = max(fitting, default=1)
    return _with(batch, micro_batch=decided("batch.micro_batch", size, f"largest divisor up to 8 of {share} sequences"))


def _optimizer(recipe: Recipe, decided: Decided) -> Section:
    optimizer, steps = recipe.optimizer, recipe.training.steps
    assert isinstance(steps, int)
    changes: dict[str, Any] = {}
    if optimizer.min_learning_rate == "auto":
        lowest = optimizer.learning_rate / 10
        changes["min_learning_rate"] = decided("optimizer.min_learning_rate", lowest, "a tenth of the highest")
    if optimizer.warmup_steps == "auto":
        warmup = min(2000, -(-steps // 100))
        changes["warmup_steps"] = decided(
            "optimizer.warmup_steps", warmup, f"a hundredth of {steps} steps, at most 2000"
        )
    return _with(optimizer, **changes)


def _checkpoint(recipe: Recipe, decided: Decided) -> Section:
    return _every(recipe.checkpoint, "checkpoint", recipe, decided)


def _validation(recipe: Recipe, decided: Decided) -> Section:
    return _every(recipe.validation, "validation", recipe, decided)


def _every(section: Any, name: str, recipe: Recipe, decided: Decided) -> Section:
    if section.every_steps != "auto":
        return section
    assert isinstance(recipe.training.steps, int)
    every = max(1, recipe.training.steps // 10)
    return _with(section, every_steps=decided(f"{name}.every_steps", every, "a tenth of the steps"))


def _no_division(key: str, value: int, other_key: str, other: int) -> str:
    fitting = [size for size in range(1, other + 1) if other % size == 0]
    near = sorted(fitting, key=lambda size: abs(size - value))[:6]
    return f"{key}={value} does not divide {other_key}={other}. Use {', '.join(map(str, sorted(near)))}"

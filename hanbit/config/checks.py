"""Sizes that must fit together. Every message has the two values, the rule, and the values that would do."""

from hanbit.common.errors import ConfigError
from hanbit.config.model import LlamaConfig
from hanbit.config.recipe import Recipe


def check(recipe: Recipe, world_size: int, vocabulary: int | None) -> None:
    """Raise ConfigError with every problem of a recipe whose `auto`s are filled."""
    problems = [*_model(recipe), *_tensor(recipe), *_pipeline(recipe), *_batch(recipe, world_size), *_length(recipe)]
    model_vocabulary = recipe.model.vocabulary
    if vocabulary is not None and isinstance(model_vocabulary, int) and model_vocabulary < vocabulary:
        problems.append(
            f"model.vocabulary={model_vocabulary} is smaller than the tokenizer's {vocabulary}. "
            f"Use {vocabulary} or more, or auto"
        )
    if problems:
        raise ConfigError("\n".join(problems))


def _model(recipe: Recipe) -> list[str]:
    model = recipe.model
    if not isinstance(model, LlamaConfig):
        return (
            []
            if model.hidden % model.heads == 0
            else [_divides("model.heads", model.heads, "model.hidden", model.hidden)]
        )
    problems = []
    key_value_heads, head_dim = _int(model.key_value_heads), _int(model.head_dim)
    if model.heads % key_value_heads:
        problems.append(_divides("model.key_value_heads", key_value_heads, "model.heads", model.heads))
    rotated = head_dim * model.rotary_fraction
    if rotated != int(rotated) or int(rotated) % 2:
        problems.append(
            f"model.head_dim={head_dim} x model.rotary_fraction={model.rotary_fraction} must be an even number of "
            f"features, it is {rotated:g}. Use an even head_dim, or a fraction such as {2 * (head_dim // 4) / head_dim:g}"
        )
    return problems


def _tensor(recipe: Recipe) -> list[str]:
    tensor, model = recipe.parallel.tensor, recipe.model
    sizes = {"model.heads": model.heads, "model.inner": _int(model.inner)}
    if isinstance(model, LlamaConfig):
        sizes["model.key_value_heads"] = _int(model.key_value_heads)
    return [_divides("parallel.tensor", tensor, key, size) for key, size in sizes.items() if size % tensor]


def _pipeline(recipe: Recipe) -> list[str]:
    pipeline, layers = recipe.parallel.pipeline, recipe.model.layers
    if pipeline <= layers:
        return []
    return [f"parallel.pipeline={pipeline} is more than model.layers={layers}. Use at most {layers}"]


def _batch(recipe: Recipe, world_size: int) -> list[str]:
    parallel, batch = recipe.parallel, recipe.batch
    data, micro_batch = _int(parallel.data), _int(batch.micro_batch)
    product = parallel.tensor * parallel.pipeline * data
    problems = []
    if product != world_size:
        problems.append(
            f"parallel.tensor={parallel.tensor} x parallel.pipeline={parallel.pipeline} x parallel.data={data} = "
            f"{product}, but {world_size} process(es) were started. Start {product} "
            f"(hanbit launch --processes {product} ...), or change one of them"
        )
    one = data * micro_batch
    if batch.global_batch % one:
        below, above = batch.global_batch // one * one, -(-batch.global_batch // one) * one
        fitting = " or ".join(str(size) for size in (below, above) if size)
        problems.append(
            f"batch.global_batch={batch.global_batch} is no multiple of parallel.data={data} x "
            f"batch.micro_batch={micro_batch}. Use {fitting}"
        )
    elif batch.global_batch // one < parallel.pipeline:
        problems.append(
            f"batch.global_batch={batch.global_batch} gives {batch.global_batch // one} micro-batch(es), 1F1B over "
            f"parallel.pipeline={parallel.pipeline} stages needs at least as many. Use batch.global_batch="
            f"{one * parallel.pipeline} or a smaller batch.micro_batch"
        )
    return problems


def _length(recipe: Recipe) -> list[str]:
    problems = []
    if recipe.batch.sequence_length > recipe.model.context:
        problems.append(
            f"batch.sequence_length={recipe.batch.sequence_length} is longer than model.context={recipe.model.context}. "
            f"Use at most {recipe.model.context}, or a larger context"
        )
    warmup, steps = _int(recipe.optimizer.warmup_steps), _int(recipe.training.steps)
    if warmup > steps:
        problems.append(f"optimizer.warmup_steps={warmup} is more than training.steps={steps}. Use at most {steps}")
    return problems


def _divides(key: str, value: int, other_key: str, other: int) -> str:
    fitting = ", ".join(str(size) for size in range(1, min(other, 256) + 1) if other % size == 0)
    return f"{key}={value} does not divide {other_key}={other}. Use {fitting}"


def _int(value: int | str) -> int:
    assert isinstance(value, int), f"{value!r} was not resolved"
    return value

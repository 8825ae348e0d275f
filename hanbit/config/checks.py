"""Sizes that must fit together, looked at before anything starts.

Every problem has the values, the rule, and the values that would do; all of them are told at once.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from hanbit.common.capability import Processor, why_not
from hanbit.common.errors import ConfigError
from hanbit.config.data import sources
from hanbit.config.data_checks import data_problems
from hanbit.config.logging_checks import logging_problems
from hanbit.config.model import (
    BertConfig,
    BloomConfig,
    GemmaConfig,
    LlamaConfig,
    MixedWindowConfig,
    MixtureConfig,
    NeoXConfig,
    OPTConfig,
    Phi3Config,
    T5Config,
)
from hanbit.config.pipeline_checks import micro_batch_problems, pipeline_problems
from hanbit.config.problem import Problem, unproven
from hanbit.config.ramp_up import ramp_problems
from hanbit.config.recipe import Recipe

_MOST_VALUES = 12
_FP8_ALONE = ("tensor", "shard", "context", "expert")
_SHORTEST = {"bert": 8, "t5": 16}  # tokens of a sequence in which there is something to hide
_WHOLE_FAMILIES = ("bert", "t5", "mixture")  # whose sequences are not split over processes


def refuse(problems: Sequence[Problem], origins: Mapping[str, str]) -> None:
    """Raise ConfigError with all of them, a line each: the rule (its place). The way out."""
    lines = []
    for problem in problems:
        place = f" ({origins[problem.key]})" if problem.key in origins else ""
        lines.append(f"{problem.rule}{place}. {problem.way_out}")
    if lines:
        raise ConfigError("\n".join(lines))


def unfillable(recipe: Recipe, vocabulary: int | None) -> list[Problem]:
    """What keeps `auto` values from being decided."""
    return [*_head_dim(recipe), *_length_of_training(recipe), *_unknown_vocabulary(recipe, vocabulary)]


def misfits(recipe: Recipe, world_size: int, vocabulary: int | None) -> list[Problem]:
    """Of a recipe whose `auto` values are filled (model.vocabulary may still be unknown)."""
    checks: tuple[Callable[[Recipe], Iterator[Problem]], ...] = (
        _heads,
        _encoders,
        _tensor,
        pipeline_problems,
        _sequence,
        _batch,
        ramp_problems,
        _context,
        _offload,
        _recompute,
        _rates,
        _tuning,
        _mixture,
        _relatives,
        _expert,
        data_problems,
        _fp8,
    )
    found = [problem for one in checks for problem in one(recipe)]
    found += logging_problems(recipe, world_size)
    return [*found, *_processes(recipe, world_size), *_small_vocabulary(recipe, vocabulary)]


def lacking(recipe: Recipe, processor: Processor | None) -> list[Problem]:
    """A precision that the processor does not have; nothing where it is not known yet."""
    precision = recipe.training.precision
    why = None if processor is None or precision == "auto" else why_not(processor, precision)
    if processor is None or why is None:
        return []
    way_out = f"Use one of these, or auto, which takes {processor.capability.auto} here"
    return [Problem("training.precision", f"training.precision={precision}: {why}", way_out)]


def known(value: int | str) -> int:
    assert isinstance(value, int), f"{value!r} was not resolved"
    return value


def _head_dim(recipe: Recipe) -> Iterator[Problem]:
    model = recipe.model
    is_by_division = not isinstance(model, LlamaConfig | T5Config) or model.head_dim == "auto"
    if is_by_division and model.hidden % model.heads:
        yield _divides("model.heads", model.heads, "model.hidden", model.hidden)


def _length_of_training(recipe: Recipe) -> Iterator[Problem]:
    steps, tokens = recipe.training.steps, recipe.training.tokens
    if steps == "auto" and (recipe.tuning is not None or recipe.data.is_conversations):
        rule = "training.steps=auto: conversations have no fixed number of tokens to count steps from"
        yield Problem("training.steps", rule, "Set training.steps, and leave training.tokens out")
    elif steps == "auto" and tokens is None:
        yield Problem("training.steps", "training.steps=auto needs training.tokens", "Set one of them")
    if steps != "auto" and tokens is not None:
        rule = f"training.steps={steps} and training.tokens={tokens} both say how long to train"
        yield Problem("training.tokens", rule, "Set training.steps=auto or training.tokens=null")


def _unknown_vocabulary(recipe: Recipe, vocabulary: int | None) -> Iterator[Problem]:
    if recipe.model.vocabulary == "auto" and vocabulary is None:
        rule = f"model.vocabulary=auto needs a tokenizer, and there is none beside data.train={_paths(recipe)}"
        way_out = "Make the data with `hanbit prepare`, name tokenizer.path, or set model.vocabulary"
        yield Problem("model.vocabulary", rule, way_out)


def _paths(recipe: Recipe) -> str:
    return ", ".join(source.path for source in sources(recipe.data.train))


def _small_vocabulary(recipe: Recipe, vocabulary: int | None) -> Iterator[Problem]:
    size = recipe.model.vocabulary
    if vocabulary is not None and size != "auto" and known(size) < vocabulary:
        rule = f"model.vocabulary={size} is smaller than the tokenizer's {vocabulary} tokens"
        yield Problem("model.vocabulary", rule, f"Use {vocabulary} or more, or auto")


def _heads(recipe: Recipe) -> Iterator[Problem]:
    model = recipe.model
    if isinstance(model, LlamaConfig) and model.heads % known(model.key_value_heads):
        yield _divides("model.key_value_heads", known(model.key_value_heads), "model.heads", model.heads)
    if isinstance(model, LlamaConfig | NeoXConfig) and model.hidden >= model.heads:
        yield from _rotated(model, known(model.head_dim))


def _rotated(model: LlamaConfig | NeoXConfig, head_dim: int) -> Iterator[Problem]:
    rotated = head_dim * model.rotary_fraction
    if int(rotated) != rotated or rotated % 2 or rotated == 0:
        rule = (
            f"model.head_dim={head_dim} x model.rotary_fraction={model.rotary_fraction} = {rotated:g} "
            "is not an even number of features"
        )
        key = "model.rotary_fraction" if model.rotary_fraction != 1 else "model.head_dim"
        yield Problem(key, rule, _even_rotation(head_dim, rotated))


def _encoders(recipe: Recipe) -> Iterator[Problem]:
    """What is not proven for families that do not say the next token, or has no meaning there."""
    model, length = recipe.model, recipe.batch.sequence_length
    if not isinstance(model, BertConfig | T5Config):
        return
    if isinstance(model, BertConfig) and not model.word_head:
        rule = "model.word_head=false is a model of embeddings, and training learns to say hidden words"
        yield Problem("model.word_head", rule, "Leave it out")
    if length < _SHORTEST[model.family]:
        rule = f"batch.sequence_length={length} is too short for model.family={model.family} to hide text in"
        yield Problem("batch.sequence_length", rule, f"Use at least {_SHORTEST[model.family]}")
    if recipe.tuning is not None:
        rule = f"tuning is built for models of the next token, not for model.family={model.family}"
        yield Problem("tuning.model", rule, "Name another base model")
    if recipe.training.compile:
        rule = f"training.compile=true is not proven for model.family={model.family}"
        yield Problem("training.compile", rule, "Leave it out")
    if recipe.parallel.pipeline > 1 and recipe.parallel.schedule != "1f1b":
        rule = f"parallel.schedule={recipe.parallel.schedule} is not proven for model.family={model.family}"
        yield Problem("parallel.schedule", rule, "Use 1f1b")
    if isinstance(model, T5Config) and model.vocabulary != "auto" and model.vocabulary <= model.start_token:
        rule = f"model.start_token={model.start_token} is outside model.vocabulary={model.vocabulary}"
        yield Problem("model.start_token", rule, "Use 0")


def _even_rotation(head_dim: int, wanted: float) -> str:
    whole = [even / head_dim for even in range(2, head_dim + 1, 2) if head_dim * (even / head_dim) == even]
    near = sorted(sorted(whole, key=lambda fraction: abs(fraction * head_dim - wanted))[:2])
    fractions = " or ".join(f"{fraction}" for fraction in near)
    return f"Use an even model.head_dim{f', or model.rotary_fraction={fractions}' if near else ''}"


def _tensor(recipe: Recipe) -> Iterator[Problem]:
    tensor, model = recipe.parallel.tensor, recipe.model
    sizes = {"model.heads": model.heads, "model.inner": known(model.inner)}
    if isinstance(model, LlamaConfig):
        sizes["model.key_value_heads"] = known(model.key_value_heads)
    if isinstance(model, MixtureConfig):
        sizes["model.expert_inner"] = known(model.expert_inner)
    uneven = [f"{key}={size}" for key, size in sizes.items() if size % tensor]
    if uneven:
        rule = f"parallel.tensor={tensor} does not divide {' and '.join(uneven)}"
        yield Problem("parallel.tensor", rule, f"Use {_divisors(math.gcd(*sizes.values()), tensor)}")


def _sequence(recipe: Recipe) -> Iterator[Problem]:
    """Context peers take one early and one late part each; tensor peers then share what they have."""
    parallel, length = recipe.parallel, recipe.batch.sequence_length
    asked = {"parallel.context": parallel.context > 1, "parallel.sequence": parallel.sequence and parallel.tensor > 1}
    for key in [key for key, is_asked in asked.items() if is_asked and recipe.model.family in _WHOLE_FAMILIES]:
        rule = f"{key} together with model.family={recipe.model.family} is not proven equal to one process"
        yield Problem(key, rule, f"Leave it out; it is proven for all families but {', '.join(_WHOLE_FAMILIES)}")
    for key in [key for key, is_asked in asked.items() if is_asked and parallel.schedule not in ("auto", "1f1b")]:
        rule = f"{key} together with parallel.schedule={parallel.schedule} is not proven equal to one process"
        yield Problem(key, rule, "Leave it out, or use parallel.schedule=1f1b")
    if parallel.context > 1 and recipe.training.compile:
        rule = f"training.compile=true together with parallel.context={parallel.context} is not proven"
        yield Problem("training.compile", rule, "Leave one of them out")
    keys, parts = [], 1
    if parallel.context > 1:
        keys, parts = [f"2 x parallel.context={parallel.context}"], 2 * parallel.context
    if parallel.sequence and parallel.tensor > 1:
        keys.append(f"parallel.tensor={parallel.tensor} with parallel.sequence=true")
        parts = math.lcm(parts, parallel.context * parallel.tensor)
    if length % parts:
        below = length // parts * parts
        fitting = " or ".join(str(size) for size in (below, below + parts) if size)
        rule = f"batch.sequence_length={length} is no multiple of {' and '.join(keys)}"
        yield Problem("batch.sequence_length", rule, f"Use {fitting}")


def _processes(recipe: Recipe, world_size: int) -> Iterator[Problem]:
    parallel = recipe.parallel
    product = parallel.tensor * parallel.context * parallel.pipeline * known(parallel.data)
    if product == world_size:
        return
    names = ("tensor", *(("context",) if parallel.context > 1 else ()), "pipeline", "data")
    factors = " x ".join(f"parallel.{name}={getattr(parallel, name)}" for name in names)
    rule = f"{factors} = {product}, but {_processes_were(world_size)} started"
    key = next((f"parallel.{name}" for name in names if getattr(parallel, name) > 1), "parallel.data")
    command = f"hanbit launch --cluster local --processes {product} train ..."
    yield Problem(key, rule, f"Start {product} (`{command}`), or change one of these keys")


def _processes_were(count: int) -> str:
    return "1 process was" if count == 1 else f"{count} processes were"


def _batch(recipe: Recipe) -> Iterator[Problem]:
    batch, pipeline = recipe.batch, recipe.parallel.pipeline
    data, micro_batch = known(recipe.parallel.data), known(batch.micro_batch)
    at_once = data * micro_batch
    if batch.global_batch % at_once:
        below = batch.global_batch // at_once * at_once
        fitting = " or ".join(str(size) for size in (below, below + at_once) if size)
        rule = (
            f"batch.global_batch={batch.global_batch} is no multiple of parallel.data={data} x "
            f"batch.micro_batch={micro_batch}"
        )
        yield Problem("batch.global_batch", rule, f"Use {fitting}")
    elif pipeline > 1:
        yield from micro_batch_problems(recipe, batch.global_batch // at_once, at_once)


def _context(recipe: Recipe) -> Iterator[Problem]:
    length, context = recipe.batch.sequence_length, recipe.model.context
    if length > context:
        rule = f"batch.sequence_length={length} is longer than model.context={context}"
        yield Problem("batch.sequence_length", rule, f"Use at most {context}, or a larger model.context")


def _offload(recipe: Recipe) -> Iterator[Problem]:
    """FSDP2 does it, and only what is sharded is its."""
    parallel = recipe.parallel
    if not parallel.offload:
        return
    if parallel.shard < 2:
        rule = f"parallel.offload=true with parallel.shard={parallel.shard}: only what is sharded can leave the GPU"
        yield Problem("parallel.offload", rule, "Use parallel.shard=3 or 2, or leave it out")
    elif known(parallel.data) == parallel.context == 1:
        rule = "parallel.offload=true with parallel.data=1: nothing is sharded without a replica beside"
        yield Problem("parallel.offload", rule, "Use parallel.data=2 or more, or leave it out")
    elif parallel.expert > 1 and known(parallel.data) == parallel.expert:
        rule = (
            f"parallel.offload=true with parallel.expert=parallel.data={parallel.expert}: experts are not sharded then"
        )
        yield Problem("parallel.offload", rule, "Use a smaller parallel.expert, or leave it out")
    beside = {
        "training.compile=true": recipe.training.compile,
        "training.precision=fp16": recipe.training.precision == "fp16",
        f"parallel.schedule={parallel.schedule}": parallel.pipeline > 1 and parallel.schedule != "1f1b",
    }
    rule = "parallel.offload=true together with {} is not proven equal to one process"
    yield from unproven("parallel.offload", rule, beside)


def _recompute(recipe: Recipe) -> Iterator[Problem]:
    training = recipe.training
    if training.recompute == "selective" and recipe.parallel.pipeline > 1 and recipe.parallel.schedule == "zero_bubble":
        rule = (
            "training.recompute=selective together with parallel.schedule=zero_bubble: that schedule goes backward "
            "twice, for a block's input and for its weights, and torch gives out what was kept only once"
        )
        yield Problem("training.recompute", rule, "Use full or none, or another parallel.schedule")
    narrowed = {"recompute_layers": training.recompute_layers != "all", "recompute_every": training.recompute_every > 1}
    for name in [name for name, is_set in narrowed.items() if is_set and training.recompute == "none"]:
        rule = f"training.{name}={getattr(training, name)} says which blocks, and training.recompute=none says no block"
        yield Problem(f"training.{name}", rule, "Set training.recompute=selective or full, or leave it out")


def _rates(recipe: Recipe) -> Iterator[Problem]:
    optimizer, steps = recipe.optimizer, known(recipe.training.steps)
    if known(optimizer.warmup_steps) > steps:
        rule = f"optimizer.warmup_steps={optimizer.warmup_steps} is more than training.steps={steps}"
        yield Problem("optimizer.warmup_steps", rule, f"Use at most {steps}, or auto")
    lowest = optimizer.min_learning_rate
    if not isinstance(lowest, str) and lowest > optimizer.learning_rate:
        rule = f"optimizer.min_learning_rate={lowest} is more than optimizer.learning_rate={optimizer.learning_rate}"
        yield Problem("optimizer.min_learning_rate", rule, f"Use at most {optimizer.learning_rate}, or auto")


def _tuning(recipe: Recipe) -> Iterator[Problem]:
    """What is not proven beside LoRA, or says the same thing twice."""
    if recipe.tuning is None:
        return
    if recipe.training.compile:
        rule = "training.compile=true together with tuning is not proven equal to the uncompiled run"
        yield Problem("training.compile", rule, "Leave it out")
    if recipe.training.initial_model is not None:
        start, base = recipe.training.initial_model, recipe.tuning.model
        rule = f"training.initial_model={start} and tuning.model={base} both name a model to start from"
        yield Problem("training.initial_model", rule, "Keep tuning.model")


def _mixture(recipe: Recipe) -> Iterator[Problem]:
    """What is not proven with experts."""
    if not isinstance(recipe.model, MixtureConfig):
        return
    if recipe.training.compile:
        rule = "training.compile=true with model.family=mixture: a graph cannot know how many tokens an expert gets"
        yield Problem("training.compile", rule, "Leave it out")
    if recipe.training.precision in ("fp16", "fp8"):
        rule = f"training.precision={recipe.training.precision} with model.family=mixture is not proven"
        yield Problem("training.precision", rule, "Use bf16 or fp32")
    if recipe.tuning is not None:
        rule = "tuning a model.family=mixture is not proven: adapters of experts are not built"
        yield Problem("tuning.model", rule, "Train all of it, or tune a model without experts")
    if recipe.parallel.pipeline > 1 and recipe.parallel.schedule != "1f1b":
        rule = f"parallel.schedule={recipe.parallel.schedule} with model.family=mixture is not proven"
        yield Problem("parallel.schedule", rule, "Use 1f1b")


def _relatives(recipe: Recipe) -> Iterator[Problem]:
    """What is not proven of families that are there to be read and served, but train as others do."""
    model = recipe.model
    if not isinstance(model, NeoXConfig | OPTConfig | BloomConfig | MixedWindowConfig | Phi3Config):
        return
    if isinstance(model, GemmaConfig) and model.logit_cap is not None:
        rule = f"model.logit_cap={model.logit_cap} is not built in training, only in reading and generating"
        yield Problem("model.logit_cap", rule, "Leave it out")
    asked = {
        "training.compile": (recipe.training.compile, "Leave it out"),
        "training.precision": (recipe.training.precision in ("fp16", "fp8"), "Use bf16 or fp32"),
        "tuning.model": (recipe.tuning is not None, "Tune a model of the gpt or llama family"),
    }
    for key, (is_asked, way_out) in asked.items():
        if is_asked:
            section, name = key.split(".")
            value = getattr(getattr(recipe, section), name)
            value = "true" if value is True else value
            yield Problem(key, f"{key}={value} with model.family={model.family} is not proven", way_out)


def _expert(recipe: Recipe) -> Iterator[Problem]:
    parallel, expert, model = recipe.parallel, recipe.parallel.expert, recipe.model
    if expert == 1:
        return
    if not isinstance(model, MixtureConfig):
        rule = f"parallel.expert={expert}, but model.family={model.family} has no experts"
        yield Problem("parallel.expert", rule, "Use 1")
        return
    for key, size in (("parallel.data", known(parallel.data)), ("model.experts", model.experts)):
        if size % expert:
            yield _divides("parallel.expert", expert, key, size)


def _fp8(recipe: Recipe) -> Iterator[Problem]:
    """Layouts in which torchao's layers are not proven beside ours."""
    parallel = recipe.parallel
    sizes = {key: getattr(parallel, key) for key in _FP8_ALONE}
    beside = [f"parallel.{key}={size}" for key, size in sizes.items() if size > (0 if key == "shard" else 1)]
    beside += [] if recipe.tuning is None else ["tuning"]
    if recipe.training.precision == "fp8" and beside:
        rule = f"training.precision=fp8 together with {' and '.join(beside)} is not proven equal to one process"
        yield Problem("training.precision", rule, "Use bf16")


def _divides(key: str, value: int, other_key: str, other: int) -> Problem:
    return Problem(key, f"{key}={value} does not divide {other_key}={other}", f"Use {_divisors(other, value)}")


def _divisors(number: int, wanted: int) -> str:
    """The values that would do; of many those nearest to what was wanted."""
    small = [size for size in range(1, math.isqrt(number) + 1) if number % size == 0]
    every = sorted({*small, *(number // size for size in small)})
    near = sorted(sorted(every, key=lambda size: abs(size - wanted))[:_MOST_VALUES])
    return " or ".join(filter(None, [", ".join(map(str, near[:-1])), str(near[-1])]))

"""A global batch that grows while a run goes: its size after so many samples, as Megatron-LM's --rampup-batch-size.

Samples decide, not steps: a run that resumes, on as many processes as it likes, goes on with the same sizes.
"""

from collections.abc import Iterator

from hanbit.config.model import GPTConfig, LlamaConfig
from hanbit.config.pipeline_checks import suits_schedule, wanted_micro_batches
from hanbit.config.problem import Problem, unproven
from hanbit.config.recipe import BatchSection, Recipe


def size_at(batch: BatchSection, samples_seen: int) -> int:
    """Sequences of the step that begins after `samples_seen` of them."""
    ramp = batch.ramp_up
    if ramp is None or samples_seen >= ramp.samples:
        return batch.global_batch
    increments = (batch.global_batch - ramp.start) // ramp.increment
    return ramp.start + samples_seen * increments // ramp.samples * ramp.increment


def sizes_of(batch: BatchSection) -> list[int]:
    """Every size there will be, growing."""
    ramp = batch.ramp_up
    growing = [] if ramp is None else range(ramp.start, batch.global_batch, ramp.increment)
    return [*growing, batch.global_batch]


def samples_after(batch: BatchSection, steps: int) -> int:
    """Sequences that the first `steps` steps see."""
    seen = 0
    while steps and (size := size_at(batch, seen)) < batch.global_batch:
        seen, steps = seen + size, steps - 1
    return seen + steps * batch.global_batch


def steps_until(batch: BatchSection, samples: int) -> int:
    """Steps that see at least `samples` sequences."""
    seen = steps = 0
    while seen < samples and (size := size_at(batch, seen)) < batch.global_batch:
        seen, steps = seen + size, steps + 1
    return steps + max(0, -(-(samples - seen) // batch.global_batch))


def ramp_problems(recipe: Recipe) -> Iterator[Problem]:
    """Sizes that the replicas cannot share out, and what it is not proven beside."""
    batch, ramp = recipe.batch, recipe.batch.ramp_up
    if ramp is None:
        return
    key, missing = "batch.ramp_up", batch.global_batch - ramp.start
    if missing <= 0 or missing % ramp.increment:
        rule = (
            f"batch.ramp_up: from start={ramp.start} steps of increment={ramp.increment} do not lead to "
            f"batch.global_batch={batch.global_batch}"
        )
        yield Problem(key, rule, "Use a smaller start, and an increment that divides what is missing to global_batch")
        return
    data, micro_batch = recipe.parallel.data, batch.micro_batch
    assert isinstance(data, int), "resolved"
    assert isinstance(micro_batch, int), "resolved"
    uneven = [size for size in sizes_of(batch) if size % (data * micro_batch)]
    if uneven:
        rule = (
            f"batch.ramp_up gives a batch of {uneven[0]}, no multiple of parallel.data={data} x "
            f"batch.micro_batch={micro_batch}"
        )
        yield Problem(key, rule, f"Use multiples of {data * micro_batch} for start and increment")
    yield from _too_small_for_the_pipeline(recipe, data * micro_batch)
    beside = {
        f"model.family={recipe.model.family}": type(recipe.model) not in (GPTConfig, LlamaConfig),
        f"parallel.context={recipe.parallel.context}": recipe.parallel.context > 1,
        "tuning": recipe.tuning is not None,
    }
    yield from unproven(key, "batch.ramp_up together with {} is not proven", beside)


def _too_small_for_the_pipeline(recipe: Recipe, at_once: int) -> Iterator[Problem]:
    """at_once: sequences of one micro-batch of all replicas."""
    parallel, smaller = recipe.parallel, sizes_of(recipe.batch)[:-1]  # the last one has its own check
    unsuited = [size for size in smaller if parallel.pipeline > 1 and not suits_schedule(size // at_once, recipe)]
    if unsuited:
        rule = (
            f"batch.ramp_up gives a batch of {unsuited[0]}, {unsuited[0] // at_once} micro-batches, and "
            f"parallel.schedule={parallel.schedule} over parallel.pipeline={parallel.pipeline} needs "
            f"{wanted_micro_batches(recipe)}"
        )
        yield Problem("batch.ramp_up", rule, f"Use multiples of {parallel.pipeline * at_once} for start and increment")

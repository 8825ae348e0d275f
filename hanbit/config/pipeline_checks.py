"""What must fit together in a pipeline: stages, layers, micro-batches, and what its schedule cannot have beside it."""

from collections.abc import Iterator

from hanbit.config.model import num_layers
from hanbit.config.problem import Problem
from hanbit.config.recipe import Recipe

_ROUNDS = "interleaved", "zero_bubble"  # deal micro-batches out in rounds, one for each process


def pipeline_problems(recipe: Recipe) -> Iterator[Problem]:
    yield from _layers(recipe)
    yield from _virtual(recipe)
    yield from _beside(recipe)


def suits_schedule(count: int, recipe: Recipe) -> bool:
    """Whether the schedule can be run with `count` micro-batches a step."""
    pipeline = recipe.parallel.pipeline
    if recipe.parallel.schedule == "gpipe":
        return count >= 1
    return count >= pipeline and (count % pipeline == 0 or not _has_rounds(recipe))


def wanted_micro_batches(recipe: Recipe) -> str:
    pipeline = recipe.parallel.pipeline
    if recipe.parallel.schedule == "gpipe":
        return "1 or more"
    return f"a multiple of {pipeline}" if _has_rounds(recipe) else f"at least {pipeline}"


def _has_rounds(recipe: Recipe) -> bool:
    """A zero-bubble V has none."""
    parallel = recipe.parallel
    return parallel.schedule in _ROUNDS and not (parallel.schedule == "zero_bubble" and parallel.virtual == 2)


def micro_batch_problems(recipe: Recipe, count: int, at_once: int) -> Iterator[Problem]:
    """count: micro-batches of a step. at_once: sequences of one micro-batch of all replicas."""
    if suits_schedule(count, recipe):
        return
    batch, parallel = recipe.batch, recipe.parallel
    rule = (
        f"batch.global_batch={batch.global_batch} / (parallel.data={parallel.data} x batch.micro_batch="
        f"{batch.micro_batch}) gives {count} micro-batches, and parallel.schedule={parallel.schedule} over "
        f"parallel.pipeline={parallel.pipeline} needs {wanted_micro_batches(recipe)}"
    )
    step = parallel.pipeline * at_once
    near = [size for size in (batch.global_batch // step * step, (batch.global_batch // step + 1) * step) if size]
    smaller = ", or a smaller batch.micro_batch" if batch.micro_batch != 1 else ""
    more = " or more" if not _has_rounds(recipe) else ""
    yield Problem("batch.global_batch", rule, f"Use batch.global_batch={' or '.join(map(str, near))}{more}{smaller}")


def _layers(recipe: Recipe) -> Iterator[Problem]:
    parallel, layers = recipe.parallel, num_layers(recipe.model)
    stages = parallel.pipeline * parallel.virtual
    if stages > layers:
        product = f"parallel.pipeline={parallel.pipeline}"
        if parallel.virtual > 1:
            product += f" x parallel.virtual={parallel.virtual} = {stages} stages"
        rule = f"{product} is more than model.layers={layers}: a stage would have none"
        yield Problem("parallel.pipeline", rule, f"Use at most {layers}{' stages' if parallel.virtual > 1 else ''}")
        return
    sizes = parallel.layers_per_stage
    if sizes != "balanced" and (len(sizes) != stages or sum(map(int, sizes)) != layers):
        rule = (
            f"parallel.layers_per_stage={sizes} has {len(sizes)} stage(s) of {sum(map(int, sizes))} layers together, "
            f"but there are {stages} stages (parallel.pipeline x parallel.virtual) and model.layers={layers}"
        )
        base, extra = divmod(layers, stages)
        fitting = [base + 1] * extra + [base] * (stages - extra)
        yield Problem("parallel.layers_per_stage", rule, f"Use {stages} numbers such as {fitting}, or balanced")


def _virtual(recipe: Recipe) -> Iterator[Problem]:
    parallel = recipe.parallel
    if parallel.virtual > 1 and parallel.pipeline == 1:
        rule = f"parallel.virtual={parallel.virtual} cuts stages of a pipeline, and parallel.pipeline=1 has none"
        yield Problem("parallel.virtual", rule, "Leave it out, or use parallel.pipeline=2 or more")
    elif parallel.virtual > 1 and parallel.schedule in ("gpipe", "1f1b"):
        rule = f"parallel.schedule={parallel.schedule} has one stage in each process, not parallel.virtual"
        yield Problem("parallel.schedule", f"{rule}={parallel.virtual}", "Use interleaved or zero_bubble, or auto")
    elif parallel.virtual == 1 and parallel.schedule == "interleaved" and parallel.pipeline > 1:
        rule = "parallel.schedule=interleaved needs several stages in each process, and parallel.virtual=1"
        yield Problem("parallel.virtual", rule, "Use parallel.virtual=2 or more, or parallel.schedule=1f1b")


def _beside(recipe: Recipe) -> Iterator[Problem]:
    """What was tried and gave wrong gradients without an error, and what nobody has proven."""
    parallel = recipe.parallel
    if parallel.pipeline == 1:
        return
    if parallel.schedule == "zero_bubble" and parallel.shard == 3:
        rule = "parallel.schedule=zero_bubble with parallel.shard=3 gives wrong gradients: weights are gone by then"
        yield Problem("parallel.shard", rule, "Use parallel.shard=2, or another schedule")
    if parallel.schedule == "zero_bubble" and recipe.training.compile:
        rule = "parallel.schedule=zero_bubble with training.compile=true gives wrong gradients"
        yield Problem("training.compile", rule, "Leave it out, or use another schedule")
    elif parallel.virtual > 1 and recipe.training.compile:
        rule = f"training.compile=true with parallel.virtual={parallel.virtual} is not proven equal to one process"
        yield Problem("training.compile", rule, "Leave it out, or use parallel.virtual=1")
    other = "tuning" if recipe.tuning is not None else f"model.family={recipe.model.family}"
    is_proven = recipe.tuning is None and recipe.model.family not in ("bert", "t5", "mixture")
    if not is_proven and (parallel.virtual > 1 or parallel.schedule == "zero_bubble"):
        rule = f"parallel.schedule={parallel.schedule} together with {other} is not proven equal to one process"
        yield Problem("parallel.schedule", rule, "Use 1f1b with parallel.virtual=1")

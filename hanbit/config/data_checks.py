"""What the section `data` must fit: weights for all of a blend, and packing only beside what it was proven with."""

from collections.abc import Iterator

from hanbit.config.data import sources
from hanbit.config.model import BertConfig, MixtureConfig, T5Config
from hanbit.config.problem import Problem, unproven
from hanbit.config.recipe import Recipe


def data_problems(recipe: Recipe) -> Iterator[Problem]:
    """Blends with weights for some only, families that read no blends, and what is not proven beside packing."""
    data = recipe.data
    blends = {"data.train": sources(data.train)}
    blends |= {f"data.validation{f'.{name}' if name else ''}": one for name, one in data.validation_sets.items()}
    for key, blend in blends.items():
        without = [str(source.name) for source in blend if source.weight is None]
        if without and len(without) < len(blend):
            yield Problem(key, f"{key} has weights, but none for {', '.join(without)}", "Give all a weight, or none")
    if isinstance(recipe.model, BertConfig | T5Config) and (
        len(blends["data.train"]) > 1 or isinstance(data.split, str)
    ):
        rule = f"model.family={recipe.model.family} reads one source, with data.split as a number"
        yield Problem("data.train", rule, "Prepare all text into one folder")
    if recipe.tuning is not None and data.kind == "tokens":
        yield Problem("data.kind", "data.kind=tokens, but tuning learns from conversations", "Leave it out")
    if recipe.tuning is None and data.is_conversations:
        yield from _beside_conversations(recipe)
    if data.packing != "none":
        yield from _beside_packing(recipe)


def _beside_conversations(recipe: Recipe) -> Iterator[Problem]:
    """Training all weights on answers: with what it was not compared with one process, or a plain loop."""
    parallel, training = recipe.parallel, recipe.training
    beside = {
        f"model.family={recipe.model.family}": isinstance(recipe.model, BertConfig | T5Config | MixtureConfig),
        "training.compile=true": training.compile,
        "training.precision=fp8": training.precision == "fp8",
        f"parallel.schedule={parallel.schedule}": parallel.pipeline > 1 and parallel.schedule not in ("auto", "1f1b"),
    }
    yield from unproven("data.kind", "conversations are not proven with {}", beside)


def _beside_packing(recipe: Recipe) -> Iterator[Problem]:
    parallel, family = recipe.parallel, recipe.model.family
    beside = {
        f"model.family={family}": isinstance(recipe.model, BertConfig | T5Config | MixtureConfig),
        "training.compile=true": recipe.training.compile,
        f"parallel.schedule={parallel.schedule}": parallel.schedule not in ("auto", "1f1b"),
    }
    yield from unproven("data.packing", f"data.packing={recipe.data.packing} is not proven with {{}}", beside)

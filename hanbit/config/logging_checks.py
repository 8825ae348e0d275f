"""What the section `logging` must fit: a picture needs steps that come and ranks that are there."""

from collections.abc import Iterator

from hanbit.config.problem import Problem
from hanbit.config.recipe import Recipe


def logging_problems(recipe: Recipe, processes: int) -> Iterator[Problem]:
    trace, steps = recipe.logging.trace, recipe.training.steps
    if trace is None:
        return
    beyond = [step for step in trace.steps if not isinstance(steps, str) and step > steps]
    if beyond:
        rule = f"logging.trace.steps has {beyond[0]}, but training.steps={steps}"
        yield Problem("logging.trace.steps", rule, f"Use steps from 1 to {steps}")
    missing = [rank for rank in trace.ranks if not isinstance(rank, str) and rank >= processes]
    if missing:
        rule = f"logging.trace.ranks has {missing[0]}, but the last of {processes} ranks is {processes - 1}"
        yield Problem("logging.trace.ranks", rule, "Use ranks that are there, or all")

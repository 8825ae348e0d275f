"""The proof that parallel training computes what one process computes.

Every case trains the same model on the same tokens as one process, for 20 steps in fp32. Compared are the loss of
every step and the norm of every gradient tensor of every step. Then each collective is left out once, where a case
relies on it: the comparison must fail, else it would not notice that collective.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hanbit.bench.exactness_cases import (
    CASES,
    LEAST_FALL,
    MODELS,
    NEEDED_BY,
    NOISE,
    NOTICED_STEPS,
    STEPS,
    TOLERANCE,
    Case,
)
from hanbit.bench.group import results_of
from hanbit.data.megatron import TokenWriter
from hanbit.parallel.collectives import Purpose

Job = tuple[Case, Purpose | None]
Measured = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One line of the table. `without`: the collective that was left out; then equality would be a failure."""

    case: Case
    loss_error: float  # largest relative difference of a step's loss
    gradient_error: float  # largest relative difference of a gradient tensor's norm
    loss_fall: float  # share of the first loss that was gone at the last step
    without: Purpose | None = None

    @property
    def name(self) -> str:
        return self.case.name if self.without is None else f"{self.case.name} without {self.without}"

    @property
    def is_equal(self) -> bool:
        return self.loss_error <= TOLERANCE and self.gradient_error <= TOLERANCE and self.loss_fall >= LEAST_FALL

    @property
    def is_good(self) -> bool:
        return self.is_equal if self.without is None else not self.is_equal

    def as_dict(self) -> dict[str, Any]:
        return {
            "layout": self.case.name,
            "model": self.case.model,
            "processes": self.case.processes,
            "without": self.without,
            "loss_error": self.loss_error,
            "gradient_error": self.gradient_error,
            "loss_fall": self.loss_fall,
            "is_good": self.is_good,
        }


def table(rows: Sequence[Row]) -> str:
    """As people read it; the second part must fail, and says so."""
    width = max((len(row.name) for row in rows), default=0)
    model = max((len(row.case.model) for row in rows), default=0)
    lines = [f"{'layout':{width}} {'model':{model}} {'loss':>8} {'gradient':>9} {'fall':>5}"]
    lines += [line_of(row, width, model) for row in rows]
    bound = f"bound {TOLERANCE:.0e} relative, {STEPS} steps, fp32"
    good = sum(row.is_good for row in rows)
    return "\n".join([*lines, f"{good} of {len(rows)} as they must be ({bound})"])


def line_of(row: Row, width: int = 0, model: int = 0) -> str:
    """width, model: characters that the first two columns have at least."""
    verdict = ("equal" if row.is_equal else "DIFFERENT") if row.without is None else "noticed"
    verdict = verdict if row.is_good else "FAILED"
    errors = f"{row.loss_error:8.1e} {row.gradient_error:9.1e} {row.loss_fall:5.0%}"
    return f"{row.name:{width}} {row.case.model:{model}} {errors}  {verdict}"


def prove(
    cases: Sequence[Case] = CASES,
    without: Iterable[Purpose] = tuple(Purpose),
    tell: Callable[[Row], None] = lambda row: None,
) -> list[Row]:
    """Run all cases, then each of `without` left out of the case that needs it. Most of an hour on two cores for all.

    tell: called with each row as soon as it is known.
    """
    jobs = [(case, None) for case in cases] + [(NEEDED_BY[purpose], purpose) for purpose in without]
    with tempfile.TemporaryDirectory() as folder:
        data = str(write_tokens(Path(folder)))
        models = sorted({case.model for case, _ in jobs})
        singles: list[Job] = [(Case("one process", model, 1), None) for model in models]
        references = dict(zip(models, _measured(data, singles, Path(folder)), strict=True))
        rows = []
        for processes in sorted({case.processes for case, _ in jobs}):
            group = [job for job in jobs if job[0].processes == processes]
            for (case, purpose), measured in zip(group, _measured(data, group, Path(folder)), strict=True):
                rows.append(compare(case, measured, references[case.model], purpose))
                tell(rows[-1])
    return sorted(rows, key=lambda row: row.without is not None)


def compare(case: Case, measured: Measured, reference: Measured, without: Purpose | None = None) -> Row:
    loss_error = max(map(relative, measured["losses"], reference["losses"]))
    steps = zip(measured["tensors"], reference["tensors"], strict=without is None)
    gradient_error = max(_gradient_error(case, mine, theirs) for mine, theirs in steps)
    gradient_error = max(gradient_error, *map(relative, measured["norms"], reference["norms"]))
    fall = 1 - measured["losses"][-1] / measured["losses"][0]
    return Row(case, loss_error, gradient_error, fall, without)


def _gradient_error(case: Case, mine: dict[str, float], theirs: dict[str, float]) -> float:
    """The largest of one step. Gradients that are zero by mathematics must be rounding noise on both sides instead."""
    assert set(mine) == set(theirs), f"{case.name}: other parameters than one process"
    total = sum(norm**2 for norm in theirs.values()) ** 0.5
    worst = 0.0
    for name in theirs:
        if is_zero(case.model, name):
            noise = max(mine[name], theirs[name]) / total
            worst = max(worst, 0.0 if noise <= NOISE else noise)
        else:
            worst = max(worst, relative(mine[name], theirs[name]))
    return worst


def is_zero(model: str, name: str) -> bool:
    """A key's bias moves all scores of a query alike, which softmax does not see, unless keys are rotated."""
    family = MODELS[model]["family"]
    return family in ("gpt", "bert", "opt", "bloom") and name.endswith("attention.key.bias")


def relative(value: float, wanted: float) -> float:
    """Not a number is as wrong as can be."""
    error = abs(value - wanted) / max(abs(wanted), 1e-12)
    return error if error == error else float("inf")


def write_tokens(folder: Path) -> Path:
    """Text with something to learn: a token often follows from the one before (fixed seed)."""
    random = np.random.default_rng(7)
    vocabulary = MODELS["llama"]["vocabulary"]
    successor = random.permutation(vocabulary)
    tokens = random.zipf(1.5, 20_000) % vocabulary
    follows = random.random(len(tokens)) < 0.5
    for index in range(1, len(tokens)):
        if follows[index]:
            tokens[index] = successor[tokens[index - 1]]
    borders = np.cumsum(random.integers(1, 60, 1000))
    with TokenWriter(folder / "tokens", vocabulary) as writer:
        for document in np.split(tokens, borders[borders < len(tokens)]):
            writer.add(document)
    return folder / "tokens"


def _measured(data: str, jobs: Sequence[Job], folder: Path) -> Iterator[Measured]:
    """All jobs of one number of processes in one group, each as soon as it is done."""
    wanted = [
        {
            "model": case.model,
            "settings": case.settings,
            "without": without,
            "steps": STEPS if without is None else NOTICED_STEPS,
        }
        for case, without in jobs
    ]
    return results_of(jobs[0][0].processes, "hanbit.bench.exactness_worker", wanted, folder, data)

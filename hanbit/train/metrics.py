"""Numbers of a run: one JSON object a line in `metrics.jsonl`, and on dashboards where they are wanted."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hanbit.common.atomic import write_text
from hanbit.common.run_folder import RunFolder
from hanbit.train.trackers import Tracker, close_trackers

# metrics.jsonl's keys in the words that dashboards of other projects use
BOARD_NAMES = {
    "loss": "train/loss",
    "learning_rate": "train/lr",
    "grad_norm": "train/grad_norm",
    "tokens": "train/tokens",
    "load_balancing_loss": "train/load_balancing_loss",
    "loss_scale": "train/loss_scale",
    "skipped_steps": "train/skipped_steps",
    "tokens_per_second": "perf/tokens_per_s",
    "validation_loss": "val/loss",
}


class Metrics:
    """Writes lines; `resumed_step` removes what a killed run wrote after its last checkpoint."""

    def __init__(self, folder: RunFolder, resumed_step: int, trackers: Sequence[Tracker] = ()) -> None:
        keep_until(folder.metrics, resumed_step)
        self._file = open(folder.metrics, "a", encoding="utf-8")  # noqa: SIM115 - open for the run's life
        self._trackers = trackers

    def write(self, **numbers: float | None) -> None:
        """None: a number that this run cannot have."""
        self._file.write(json.dumps(numbers) + "\n")
        self._file.flush()
        for tracker in self._trackers:
            tracker.write(board_numbers(numbers), int(numbers["step"] or 0))

    def close(self) -> None:
        self._file.close()
        close_trackers(self._trackers)


def board_numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """A row by the names of BOARD_NAMES, others as perf/...; without the step, and what the run cannot have."""
    found = {}
    for key, number in row.items():
        first, _, rest = key.partition(".")  # validation_loss.NAME
        if key != "step" and number is not None:
            found["/".join(filter(None, (BOARD_NAMES.get(first, f"perf/{first}"), rest)))] = float(number)
    return found


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Every row: an object with a step. A line that a kill cut short, or that is no row of ours, is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):  # ValueError: a number of thousands of digits, too
            continue
        if isinstance(row, dict) and is_number(row.get("step")):
            rows.append(row)
    return rows


def is_number(value: Any) -> bool:
    """Can it be drawn and added up? Text, true, NaN, and numbers near the end of what a float holds cannot."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def keep_until(path: Path, step: int) -> None:
    rows = read_metrics(path)
    kept = [row for row in rows if row["step"] <= step]
    if path.exists():
        write_text(path, "".join(json.dumps(row) + "\n" for row in kept))

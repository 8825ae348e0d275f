"""Numbers of a run: one JSON object a line in `metrics.jsonl`, and TensorBoard where it is wanted."""

import json
from pathlib import Path
from typing import Any

from hanbit.common.atomic import write_text
from hanbit.common.errors import ConfigError
from hanbit.common.run_folder import RunFolder

# metrics.jsonl's keys in the words that dashboards of other projects use
TENSORBOARD_NAMES = {
    "loss": "train/loss",
    "learning_rate": "train/lr",
    "grad_norm": "train/grad_norm",
    "tokens_per_second": "perf/tokens_per_s",
    "mfu": "perf/mfu",
    "peak_memory_bytes": "perf/peak_memory_bytes",
    "validation_loss": "val/loss",
}


class Metrics:
    """Writes lines; `resumed_step` removes what a killed run wrote after its last checkpoint."""

    def __init__(self, folder: RunFolder, resumed_step: int, tensorboard: bool) -> None:
        keep_until(folder.metrics, resumed_step)
        self._file = open(folder.metrics, "a", encoding="utf-8")  # noqa: SIM115 - open for the run's life
        self._board: Any = _summary_writer(folder.tensorboard, resumed_step) if tensorboard else None

    def write(self, **numbers: float | None) -> None:
        """None: a number that this run cannot have."""
        self._file.write(json.dumps(numbers) + "\n")
        self._file.flush()
        if self._board is not None:
            for key, number in numbers.items():
                first, _, rest = key.partition(".")  # validation_loss.NAME
                if first in TENSORBOARD_NAMES and number is not None:
                    name = "/".join(filter(None, (TENSORBOARD_NAMES[first], rest)))
                    self._board.add_scalar(name, number, numbers["step"])

    def close(self) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()


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


def check_tensorboard() -> None:
    """Before any work starts: is the extra installed?"""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as problem:
        raise ConfigError(
            f'logging.tensorboard=true needs the extra: pip install "hanbit[tensorboard]" ({problem})'
        ) from None


def _summary_writer(folder: Path, resumed_step: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=resumed_step + 1)

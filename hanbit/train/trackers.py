"""Dashboards of a run: TensorBoard, Weights & Biases, MLflow. None of them can stop it or make it wait.

Each has a thread of its own on rank 0 that starts it and hands it the numbers, so a server that is slow or gone costs
the run nothing. The first exception is warned about, and that dashboard is left alone: `metrics.jsonl` has everything.

Their modules are imported before any thread starts: CPython 3.11 may fail to parse Python in two threads at once (its
issue 106905); wandb does so while it is imported, and torch in the first steps.
"""

import importlib
import importlib.util
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from queue import Queue
from typing import Protocol

from hanbit.common.atomic import write_json
from hanbit.common.errors import ConfigError
from hanbit.common.run_folder import RunFolder
from hanbit.config.recipe import Recipe
from hanbit.train.tracker_mlflow import start_mlflow
from hanbit.train.tracker_tensorboard import start_tensorboard
from hanbit.train.tracker_wandb import start_wandb

logger = logging.getLogger(__name__)

MODULES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}  # key of logging -> what it imports
PATIENCE_SECONDS = 30.0  # at the end, for what is still on its way


class Board(Protocol):
    """One dashboard that is open. `id`: what a resumed run continues by; "" where its folder is enough."""

    id: str

    def write(self, numbers: dict[str, float], step: int) -> None: ...

    def close(self) -> None: ...


class Tracker:
    """`start` opens the board, in the tracker's thread; `started` is told the board's id."""

    def __init__(self, name: str, start: Callable[[], Board], started: Callable[[str], None] = lambda _: None) -> None:
        self.name, self._start, self._started = name, start, started
        self._rows: Queue[tuple[dict[str, float], int] | None] = Queue()
        self._is_lost = False
        self._thread = threading.Thread(target=self._run, name=f"tracker {name}", daemon=True)
        self._thread.start()

    def write(self, numbers: dict[str, float], step: int) -> None:
        """Comes back at once."""
        if not self._is_lost:
            self._rows.put((numbers, step))

    def finish(self) -> None:
        """No more rows come; the board is closed after the last one."""
        self._rows.put(None)

    def wait(self, seconds: float) -> None:
        self._thread.join(seconds)
        if self._thread.is_alive():
            logger.warning("logging.%s has not taken its last numbers; the run ends without them", self.name)

    def _run(self) -> None:
        try:
            board = self._start()
            self._started(board.id)
            while (row := self._rows.get()) is not None:
                board.write(*row)
            board.close()
        except Exception as problem:  # whatever it is, the run is worth more than its dashboard
            self._is_lost = True
            _warn_of(self.name, problem)


def check_trackers(recipe: Recipe) -> None:
    """Before any work starts: is what `logging` asks for installed, and is it known where to? Raises ConfigError."""
    for key, module in MODULES.items():
        if getattr(recipe.logging, key) and not _is_installed(module):
            raise ConfigError(f'logging.{key} needs the extra: pip install "hanbit[{key}]", or leave logging.{key} out')
    mlflow = recipe.logging.mlflow
    if mlflow is not None and mlflow.tracking_uri is None and not os.environ.get("MLFLOW_TRACKING_URI"):
        raise ConfigError(
            "logging.mlflow does not say where. Set logging.mlflow.tracking_uri, or MLFLOW_TRACKING_URI, to the "
            "address of an MLflow server"
        )


def start_trackers(recipe: Recipe, folder: RunFolder, resumed_step: int) -> list[Tracker]:
    """Of rank 0. A resumed run continues under the ids that the run folder remembers."""
    wanted, known, turn = recipe.logging, _known_ids(folder), threading.Lock()
    starts: dict[str, Callable[[], Board]] = {
        "tensorboard": lambda: start_tensorboard(folder, resumed_step),
        "wandb": lambda: start_wandb(recipe, folder, known.get("wandb")),
        "mlflow": lambda: start_mlflow(recipe, known.get("mlflow")),
    }

    def remember(name: str, found: str) -> None:
        if found:
            with turn:  # two that start at the same moment would write over each other
                known[name] = found
                write_json(folder.trackers, known)

    return [
        Tracker(name, start, lambda found, name=name: remember(name, found))  # type: ignore[misc]
        for name, start in starts.items()
        if getattr(wanted, name) and _is_imported(name)
    ]


def _is_imported(name: str) -> bool:
    try:
        importlib.import_module(MODULES[name])
    except Exception as problem:
        _warn_of(name, problem)
        return False
    return True


def _warn_of(name: str, problem: Exception) -> None:
    logger.warning("logging.%s: %s. The run goes on without it; metrics.jsonl has all", name, problem)


def close_trackers(trackers: Sequence[Tracker], patience_seconds: float = PATIENCE_SECONDS) -> None:
    """All at once; together they get `patience_seconds`."""
    end = time.monotonic() + patience_seconds
    for tracker in trackers:
        tracker.finish()
    for tracker in trackers:
        tracker.wait(max(0.0, end - time.monotonic()))


def _known_ids(folder: RunFolder) -> dict[str, str]:
    try:
        found = json.loads(folder.trackers.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none yet, or cut short: the dashboards begin anew
        return {}
    return {str(name): str(id) for name, id in found.items()} if isinstance(found, dict) else {}


def _is_installed(module: str) -> bool:
    """A folder of that name, such as the one where W&B keeps offline runs, is no module."""
    found = importlib.util.find_spec(module)
    return found is not None and found.origin is not None

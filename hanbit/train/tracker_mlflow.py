"""MLflow, through its client alone: no run that is active by itself, nothing that belongs to the process.

User and password are its own settings (`MLFLOW_TRACKING_USERNAME`, `MLFLOW_TRACKING_PASSWORD`, ...).
"""

import time
from typing import Any

from hanbit.config.recipe import Recipe
from hanbit.config.write import flat

_MOST_PARAMS = 100  # of one request


class Mlflow:
    def __init__(self, client: Any, run_id: str) -> None:
        self._client, self.id = client, run_id

    def write(self, numbers: dict[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self.id, metrics=[Metric(name, number, now, step) for name, number in numbers.items()])

    def close(self) -> None:
        self._client.set_terminated(self.id)


def start_mlflow(recipe: Recipe, known_id: str | None) -> Mlflow:
    from mlflow import MlflowClient

    wanted = recipe.logging.mlflow
    assert wanted is not None
    client = MlflowClient(wanted.tracking_uri)
    if known_id is not None:
        client.update_run(known_id, status="RUNNING")
        return Mlflow(client, known_id)
    experiment = client.get_experiment_by_name(wanted.experiment)
    place = client.create_experiment(wanted.experiment) if experiment is None else experiment.experiment_id
    run_id = client.create_run(place, run_name=recipe.name).info.run_id
    _tell(client, run_id, recipe)
    return Mlflow(client, run_id)


def _tell(client: Any, run_id: str, recipe: Recipe) -> None:
    """The recipe, every value by its dotted key. What a run began with: MLflow refuses another value later."""
    from mlflow.entities import Param

    params = [Param(key, value) for key, value in flat(recipe).items()]
    for start in range(0, len(params), _MOST_PARAMS):
        client.log_batch(run_id, params=params[start : start + _MOST_PARAMS])

"""`backend: "python"`: Triton's Python models as they are, in processes of their own or inside the server.

docs/python-models.md has the parameters. A model is code: whoever may write into the repository may do what the server
may do.
"""

import asyncio
import json
from typing import Any

from google.protobuf.json_format import ParseDict, ParseError
from tritonclient.grpc.model_config_pb2 import ModelConfig

from hanbit.common.errors import RepositoryError
from hanbit.repository.config import check_config
from hanbit.server.backends.find import Loaded, Surroundings
from hanbit.server.batching.options import InstancePlace, batch_options, instance_places
from hanbit.server.batching.scheduler import Scheduler
from hanbit.server.python_models.ask import Server
from hanbit.server.python_models.inside_instance import InsideInstance
from hanbit.server.python_models.process_instance import ProcessInstance
from hanbit.server.python_models.settings import PythonSettings, python_settings

# what auto_complete_config may say
_COMPLETED = ("max_batch_size", "input", "output", "dynamic_batching", "model_transaction_policy")
PythonInstance = ProcessInstance | InsideInstance


class PythonModel(Scheduler[PythonInstance]):
    """`server`: tells whether it is ending, when nobody waits for what still runs."""

    def __init__(self, config: ModelConfig, instances: list[PythonInstance], server: Server) -> None:
        super().__init__(config, instances)
        self._server = server

    async def _close(self) -> None:
        if self._server.is_ending():
            self.patience_seconds = 0
        await super()._close()


async def load_model(config: ModelConfig, around: Surroundings) -> Loaded:
    """Raises RepositoryError; then nothing of it is left running."""
    settings = python_settings(config, around.folder, around.version)
    first = _instance(config, settings, instance_places(config, _gpus())[0], around.server)
    instances = [first]
    try:
        said = await first.load()
        config = config if said is None or not around.completes else _completed(config, said)
        batch_options(config)
        for place in instance_places(config, _gpus())[1:]:
            instances.append(_instance(config, settings, place, around.server))
        await _together([_ready(one, config, one is first) for one in instances])
        return Loaded(config, PythonModel(config, instances, around.server))
    except BaseException:
        await asyncio.gather(*(one.close() for one in instances), return_exceptions=True)
        raise


async def _ready(instance: PythonInstance, config: ModelConfig, is_loaded: bool) -> None:
    if not is_loaded:
        await instance.load()
    await instance.initialize(config)


async def _together(works: list[Any]) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work)
    except ExceptionGroup as problems:
        raise problems.exceptions[0] from None


def _instance(config: ModelConfig, settings: PythonSettings, place: InstancePlace, server: Server) -> PythonInstance:
    kind = ProcessInstance if settings.place == "process" else InsideInstance
    return kind(config, settings, place, server)


def _completed(config: ModelConfig, said: str) -> ModelConfig:
    found = ModelConfig()
    found.CopyFrom(config)
    value = json.loads(said)
    try:
        for name in _COMPLETED:
            if name in value:
                found.ClearField(name)
                ParseDict({name: value[name]}, found)
    except ParseError as problem:
        raise RepositoryError(
            f"model {config.name!r}: auto_complete_config gives what is no configuration: {problem}"
        ) from None
    check_config(found, f"model {config.name!r}, as auto_complete_config has it")
    return found


def _gpus() -> tuple[int, ...]:
    import torch

    return tuple(range(torch.cuda.device_count())) if torch.cuda.is_available() else ()

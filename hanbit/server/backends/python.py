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
from hanbit.server.batching.sequence_scheduler import scheduler_of
from hanbit.server.python_models.ask import Server
from hanbit.server.python_models.inside_instance import InsideInstance
from hanbit.server.python_models.process_instance import ProcessInstance
from hanbit.server.python_models.settings import PythonSettings, python_settings

# what auto_complete_config may say
_COMPLETED = ("max_batch_size", "input", "output", "dynamic_batching", "model_transaction_policy")
PythonInstance = ProcessInstance | InsideInstance


async def load_model(config: ModelConfig, around: Surroundings) -> Loaded:
    """Raises RepositoryError; then nothing of it is left running."""
    settings = python_settings(config, around.folder, around.version)
    first = _instance(config, settings, instance_places(config, _gpus())[0], around.server)
    instances = [first]
    try:
        said = await first.load()
        config = config if said is None or not around.completes else _completed(config, said)
        batch_options(config)
        _check_states(config)
        for place in instance_places(config, _gpus())[1:]:
            instances.append(_instance(config, settings, place, around.server))
        await _together([_ready(one, config, one is first) for one in instances])
        scheduler = scheduler_of(config, instances, around.folder)
        scheduler.is_ending = around.server.is_ending
        return Loaded(config, scheduler)
    except BaseException:
        await asyncio.gather(*(one.close() for one in instances), return_exceptions=True)
        raise


def _check_states(config: ModelConfig) -> None:
    if config.sequence_batching.state:
        raise RepositoryError(
            f"model {config.name!r}: sequence_batching has state, which is for models of tensors: a Python model keeps "
            "what it wants to remember itself"
        )


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

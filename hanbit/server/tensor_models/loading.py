"""From a version's file to a scheduler over instances: the steps that all back ends of tensors share."""

import asyncio
import stat
from collections.abc import Callable
from pathlib import Path

from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup

from hanbit.common.errors import RepositoryError
from hanbit.repository.known_backends import usual_file
from hanbit.server.backends.find import Loaded, Surroundings
from hanbit.server.batching.options import InstancePlace, batch_options, instance_places
from hanbit.server.batching.sequence_scheduler import scheduler_of
from hanbit.server.batching.sequence_tensors import added_names, with_sequence_tensors
from hanbit.server.tensor_models.instance import Computing, TensorInstance
from hanbit.server.tensor_models.joining import Joining
from hanbit.server.tensor_models.signature import Signature, check_signature, completed

# Loads the file for one place, in a thread: what computes there, and what the file says of its tensors, if it does.
Load = Callable[[ModelConfig, Path, InstancePlace], tuple[Computing, Signature | None]]


async def load_tensor_model(
    config: ModelConfig, around: Surroundings, load: Load, gpus: tuple[int, ...], shares: bool = True
) -> Loaded:
    """`shares`: instances at one place compute with the same model. Raises RepositoryError."""
    path = model_file(config, around.folder / around.version)
    config = placed(config, gpus)
    _check_offered(config)
    models: list[Computing] = []
    places = instance_places(config, gpus)
    for place in places:
        same = [one for one, other in zip(models, places, strict=False) if _is_same(place, other)]
        if shares and same:
            models.append(same[0])
            continue
        model, signature = await asyncio.to_thread(load, with_sequence_tensors(config), path, place)
        if signature is not None:
            config = completed(config, signature, added_names(config)) if around.completes else config
            check_signature(with_sequence_tensors(config), signature)
        models.append(model)
    if not config.input or not config.output:
        raise RepositoryError(f"model {config.name!r}: config.pbtxt must say what its inputs and outputs are")
    batch_options(config)
    joining = Joining(with_sequence_tensors(config))
    scheduler = scheduler_of(config, [TensorInstance(model, joining) for model in models], around.folder)
    scheduler.is_ending = around.server.is_ending
    return Loaded(config, scheduler)


def _is_same(place: InstancePlace, other: InstancePlace) -> bool:
    return (place.kind, place.device) == (other.kind, other.device)


def model_file(config: ModelConfig, version: Path) -> Path:
    """A file in the version's folder itself. Raises RepositoryError."""
    path = version / usual_file(config)
    try:
        found = path.stat()
    except OSError as problem:
        raise RepositoryError(
            f"model {config.name!r}: {path} is missing ({problem.strerror}). Put the model's file there, or name it in "
            "config.pbtxt: default_model_filename"
        ) from None
    if not stat.S_ISREG(found.st_mode):
        raise RepositoryError(f"model {config.name!r}: {path} is no file")
    return path


def placed(config: ModelConfig, gpus: tuple[int, ...]) -> ModelConfig:
    """With instance groups as Triton completes them: on the GPUs where there are any and nothing else is said."""
    found = ModelConfig()
    found.CopyFrom(config)
    if not found.instance_group:
        found.instance_group.add()
    for index, group in enumerate(found.instance_group):
        group.name = group.name or f"{config.name}_{index}"
        group.count = max(1, group.count)
        if group.kind == ModelInstanceGroup.KIND_AUTO:
            group.kind = ModelInstanceGroup.KIND_GPU if gpus else ModelInstanceGroup.KIND_CPU
    return found


def _check_offered(config: ModelConfig) -> None:
    ragged = [one.name for one in config.input if one.allow_ragged_batch]
    if ragged or config.batch_input or config.batch_output:
        raise RepositoryError(
            f"model {config.name!r}: ragged batches (allow_ragged_batch, batch_input, batch_output) are not for "
            f"backend {config.backend!r}. Pad the inputs, or leave dynamic_batching out"
        )
    if config.model_operations.op_library_filename:
        raise RepositoryError(
            f"model {config.name!r}: model_operations names a library, and a model brings no code of its own here"
        )
    if config.model_transaction_policy.decoupled:
        raise RepositoryError(f"model {config.name!r}: backend {config.backend!r} gives one response a request")

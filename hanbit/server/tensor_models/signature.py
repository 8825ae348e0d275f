"""What a model file says of its tensors, and config.pbtxt held against it, or completed by it. Pure.

Triton's rules: a model whose inputs and outputs all begin with an open dim can take batches, and does unless its file
says otherwise; what the file says of tensors must be what the model says.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig

from hanbit.common.errors import RepositoryError
from hanbit.repository.config import check_config, wire_datatype

USUAL_BATCH = 4  # Triton's default-max-batch-size, of models that can take batches and whose file says nothing


@dataclass(frozen=True)
class TensorSpec:
    """`datatype`: on the wire; `dims`: -1 is any, None is not known at all."""

    name: str
    datatype: str
    dims: tuple[int, ...] | None


@dataclass(frozen=True)
class Signature:
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def can_batch(self) -> bool:
        return all(one.dims is not None and one.dims[:1] == (-1,) for one in (*self.inputs, *self.outputs))


def completed(config: ModelConfig, signature: Signature, hidden: Collection[str] = ()) -> ModelConfig:
    """With what it leaves open; `hidden` tensors are not for clients. Raises RepositoryError for what is still no
    configuration."""
    found = ModelConfig()
    found.CopyFrom(config)
    is_silent = not found.input and not found.output
    if is_silent and found.max_batch_size == 0 and signature.can_batch:
        found.max_batch_size = USUAL_BATCH
        if not found.HasField("dynamic_batching") and not found.HasField("sequence_batching"):
            found.dynamic_batching.SetInParent()
    if found.max_batch_size and not signature.can_batch and is_silent:
        raise RepositoryError(
            f"model {config.name!r}: max_batch_size: {config.max_batch_size}, but the model takes no batches: "
            "the first dim of each of its tensors would have to be open. Write max_batch_size: 0"
        )
    for tensors, specs in ((found.input, signature.inputs), (found.output, signature.outputs)):
        if not tensors:
            for spec in specs:
                if spec.name not in hidden:
                    _add(tensors, spec, found.max_batch_size > 0)
    check_config(found, f"model {config.name!r}, as its file has it")
    return found


def check_signature(config: ModelConfig, signature: Signature) -> None:
    """Raises RepositoryError where config.pbtxt and the model contradict each other."""
    _check_names(config, "input", config.input, signature.inputs)
    _check_names(config, "output", config.output, signature.outputs)
    missing = {one.name for one in signature.inputs} - {one.name for one in config.input}
    if missing:
        raise _wrong(config, f"the model needs the input {min(missing)!r}, which config.pbtxt leaves out")
    for kind, tensors, specs in (
        ("input", config.input, signature.inputs),
        ("output", config.output, signature.outputs),
    ):
        by_name = {one.name: one for one in specs}
        for tensor in tensors:
            _check_tensor(config, f"{kind} {tensor.name!r}", tensor, by_name[tensor.name])


def _add(tensors, spec: TensorSpec, takes_batches: bool) -> None:
    added = tensors.add(name=spec.name, data_type=DataType.Value(_data_type(spec.datatype)))
    dims = (spec.dims or ())[1:] if takes_batches else spec.dims or ()
    added.dims.extend(dims or (1,))
    if not dims:  # a single value a row: config.pbtxt has no empty dims
        added.reshape.SetInParent()


def _data_type(datatype: str) -> str:
    return "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"


def _check_names(config: ModelConfig, kind: str, tensors: Iterable, specs: Sequence[TensorSpec]) -> None:
    known = [one.name for one in specs]
    for tensor in tensors:
        if tensor.name not in known:
            raise _wrong(config, f"the model has no {kind} {tensor.name!r:.80}; it has {', '.join(known) or 'none'}")


def _check_tensor(config: ModelConfig, what: str, tensor, spec: TensorSpec) -> None:
    datatype = wire_datatype(tensor.data_type)
    if datatype != spec.datatype:
        raise _wrong(config, f"{what} is {datatype} in config.pbtxt, and {spec.datatype} in the model")
    if spec.dims is None:
        return
    dims = inner_dims(tensor)
    expected = [-1, *dims] if config.max_batch_size > 0 else list(dims)
    fits = len(expected) == len(spec.dims) and all(
        given == own or own == -1 for given, own in zip(expected, spec.dims, strict=True)
    )
    if not fits:
        way = " (the first is the batch: max_batch_size)" if config.max_batch_size > 0 else ""
        raise _wrong(config, f"{what} has dims {expected}{way} in config.pbtxt, and {list(spec.dims)} in the model")


def inner_dims(tensor) -> tuple[int, ...]:
    """Of an input or output, as the model sees it: reshaped, without the batch."""
    return tuple(tensor.reshape.shape) if tensor.HasField("reshape") else tuple(tensor.dims)


def _wrong(config: ModelConfig, what: str) -> RepositoryError:
    return RepositoryError(f"model {config.name!r}: {what}")

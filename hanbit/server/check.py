"""A request held against a model's configuration, before any work: names, datatypes, shapes. Raises RequestError."""

from collections.abc import Sequence

from tritonclient.grpc.model_config_pb2 import ModelConfig

from hanbit.repository.config import wire_datatype
from hanbit.server.errors import invalid
from hanbit.server.request import InferRequest
from hanbit.server.tensors import Tensor


def check_request(config: ModelConfig, request: InferRequest) -> None:
    expected = {one.name: one for one in config.input}
    for name, tensor in request.inputs.items():
        if name not in expected:
            raise invalid(f"model {config.name!r} has no input {name!r:.80}; it takes {', '.join(expected) or 'none'}")
        one = expected[name]
        _check_tensor(config, tensor, wire_datatype(one.data_type), one.dims)
    missing = [name for name, one in expected.items() if not one.optional and name not in request.inputs]
    if missing:
        raise invalid(f"model {config.name!r} needs the input {missing[0]!r}")
    _check_outputs(config, request)


def _check_tensor(config: ModelConfig, tensor: Tensor, datatype: str, dims: Sequence[int]) -> None:
    if tensor.datatype != datatype:
        raise invalid(f"input {tensor.name!r} of model {config.name!r} is {datatype}, not {tensor.datatype}")
    shape = tensor.shape
    if config.max_batch_size > 0:
        if not shape or not 1 <= shape[0] <= config.max_batch_size:
            raise invalid(
                f"input {tensor.name!r} of model {config.name!r} has shape {list(shape)}: the first dim is the batch, "
                f"from 1 to {config.max_batch_size}"
            )
        shape = shape[1:]
    fits = len(shape) == len(dims) and all(dim in (-1, size) for dim, size in zip(dims, shape, strict=True))
    if not fits:
        raise invalid(
            f"input {tensor.name!r} of model {config.name!r} has shape {list(tensor.shape)}; "
            f"expected {shape_of(config, dims)}"
        )


def _check_outputs(config: ModelConfig, request: InferRequest) -> None:
    known = [one.name for one in config.output]
    asked = [output.name for output in request.outputs]
    for name in asked:
        if name not in known:
            raise invalid(f"model {config.name!r} has no output {name!r:.80}; it gives {', '.join(known)}")
        if asked.count(name) > 1:
            raise invalid(f"output {name!r} is asked for twice")


def shape_of(config: ModelConfig, dims: Sequence[int]) -> list[int]:
    """As clients meet it: the batch dimension is part of it."""
    return [-1, *dims] if config.max_batch_size > 0 else list(dims)

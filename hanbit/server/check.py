"""A request held against a model's configuration, before any work: names, datatypes, shapes. Raises RequestError."""

from collections.abc import Sequence
from dataclasses import dataclass

from tritonclient.grpc.model_config_pb2 import ModelConfig

from hanbit.repository.config import wire_datatype
from hanbit.server.errors import RequestError, invalid
from hanbit.server.request import InferRequest
from hanbit.server.tensors import Tensor


@dataclass(frozen=True)
class _Expected:
    """`dims`: without the batch, -1 is any."""

    datatype: str
    dims: tuple[int, ...]
    is_optional: bool


class RequestCheck:
    """What a configuration expects, read once: a message's fields cost a microsecond each."""

    def __init__(self, config: ModelConfig) -> None:
        self._name = config.name
        self._max_batch_size = config.max_batch_size
        self._inputs = {
            one.name: _Expected(wire_datatype(one.data_type), tuple(one.dims), one.optional) for one in config.input
        }
        self._needed = [name for name, one in self._inputs.items() if not one.is_optional]
        self._outputs = [one.name for one in config.output]

    def check(self, request: InferRequest) -> None:
        """Raises RequestError."""
        for name, tensor in request.inputs.items():
            one = self._inputs.get(name)
            if one is None:
                raise self._wrong(f"has no input {name!r:.80}; it takes {', '.join(self._inputs) or 'none'}")
            self._check_tensor(tensor, one)
        for name in self._needed:
            if name not in request.inputs:
                raise self._wrong(f"needs the input {name!r}")
        if request.outputs:
            self._check_outputs(request)

    def _check_tensor(self, tensor: Tensor, one: _Expected) -> None:
        if tensor.datatype != one.datatype:
            raise invalid(f"input {tensor.name!r} of model {self._name!r} is {one.datatype}, not {tensor.datatype}")
        shape = tensor.shape
        if self._max_batch_size > 0:
            if not shape or not 1 <= shape[0] <= self._max_batch_size:
                raise invalid(
                    f"input {tensor.name!r} of model {self._name!r} has shape {list(shape)}: the first dim is the "
                    f"batch, from 1 to {self._max_batch_size}"
                )
            shape = shape[1:]
        if shape != one.dims and not fits(shape, one.dims):
            expected = [-1, *one.dims] if self._max_batch_size > 0 else list(one.dims)
            raise invalid(
                f"input {tensor.name!r} of model {self._name!r} has shape {list(tensor.shape)}; expected {expected}"
            )

    def _check_outputs(self, request: InferRequest) -> None:
        asked = [output.name for output in request.outputs]
        for name in asked:
            if name not in self._outputs:
                raise self._wrong(f"has no output {name!r:.80}; it gives {', '.join(self._outputs)}")
            if asked.count(name) > 1:
                raise invalid(f"output {name!r} is asked for twice")

    def _wrong(self, what: str) -> RequestError:
        return invalid(f"model {self._name!r} {what}")


def fits(shape: tuple[int, ...], dims: tuple[int, ...]) -> bool:
    return len(shape) == len(dims) and all(dim in (-1, size) for dim, size in zip(dims, shape, strict=True))


def shape_of(config: ModelConfig, dims: Sequence[int]) -> list[int]:
    """As clients meet it: the batch dimension is part of it."""
    return [-1, *dims] if config.max_batch_size > 0 else list(dims)

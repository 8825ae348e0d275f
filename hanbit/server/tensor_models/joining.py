"""Requests joined along the batch into what a model takes, and its outputs shared out again. Pure; numpy only."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from tritonclient.grpc.model_config_pb2 import ModelConfig

from hanbit.repository.config import wire_datatype
from hanbit.server.errors import RequestError
from hanbit.server.request import InferRequest
from hanbit.server.tensors import Tensor, dtype_of

Arrays = Mapping[str, np.ndarray]


class Joining:
    """For one model. An optional input is there for all requests of a batch or for none: `shapes` of a job hold its
    names."""

    def __init__(self, config: ModelConfig) -> None:
        self._name = config.name
        self._takes_batches = config.max_batch_size > 0
        self._reshaped = {one.name: one for one in config.input if one.HasField("reshape")}
        self._outputs = {one.name: one for one in config.output}

    def wanted(self, requests: Sequence[InferRequest]) -> list[str]:
        """The outputs that anybody asks for, in the order of the configuration."""
        asked: set[str] = set()
        for request in requests:
            asked |= {one.name for one in request.outputs} or set(self._outputs)
        return [name for name in self._outputs if name in asked]

    def joined(self, requests: Sequence[InferRequest]) -> dict[str, np.ndarray]:
        """By the model's names; one request's arrays as they are, without a copy."""
        return {name: self._input(name, requests) for name in requests[0].inputs}

    def shared(self, outputs: Arrays, rows: Sequence[int]) -> list[dict[str, Tensor]]:
        """For each request, which brought so many `rows`. Raises RequestError where the model gave something else than
        its configuration says."""
        found: list[dict[str, Tensor]] = [{} for _ in rows]
        for name, data in outputs.items():
            for place, part in zip(found, self._parts(name, data, rows), strict=True):
                place[name] = part
        return found

    def _input(self, name: str, requests: Sequence[InferRequest]) -> np.ndarray:
        parts = [request.inputs[name].data for request in requests]
        data = parts[0] if len(parts) == 1 else np.concatenate(parts)
        if name in self._reshaped:
            data = data.reshape(self._shape(data.shape, self._reshaped[name].reshape.shape, self._reshaped[name].dims))
        return data

    def _parts(self, name: str, data: np.ndarray, rows: Sequence[int]) -> list[Tensor]:
        one = self._outputs[name]
        datatype = wire_datatype(one.data_type)
        if data.dtype != np.dtype(dtype_of(datatype)):
            raise self._odd(name, f"of {data.dtype}, which is not {datatype}")
        if one.HasField("reshape"):
            data = self._output_reshaped(name, data, one)
        dims = data.shape[1:] if self._takes_batches else data.shape
        own = tuple(size if dim == -1 else dim for dim, size in zip(one.dims, dims, strict=False))
        if len(dims) != len(one.dims) or own != dims:
            raise self._odd(name, f"of shape {list(data.shape)}, but config.pbtxt says {list(one.dims)} a row")
        if not self._takes_batches:
            return [Tensor(name, datatype, data.shape, data)]
        if data.shape[0] != sum(rows):
            raise self._odd(name, f"with {data.shape[0]} rows for {sum(rows)} of the inputs")
        parts, place = [], 0
        for count in rows:
            part = data[place : place + count]
            parts.append(Tensor(name, datatype, part.shape, part))
            place += count
        return parts

    def _output_reshaped(self, name: str, data: np.ndarray, one) -> np.ndarray:
        shape = self._shape(data.shape, one.dims, one.reshape.shape)
        if math.prod(shape) != data.size:
            raise self._odd(name, f"of shape {list(data.shape)}, which does not reshape to {list(one.dims)}")
        return data.reshape(shape)

    def _shape(self, given: tuple[int, ...], to: Sequence[int], of: Sequence[int]) -> list[int]:
        """An open dim of `to` has the size of the open dim of `of` at the same place among the open ones."""
        head = given[:1] if self._takes_batches else ()
        open_sizes = iter(size for size, dim in zip(given[len(head) :], of, strict=False) if dim == -1)
        return [*head, *(next(open_sizes, -1) if dim == -1 else dim for dim in to)]

    def _odd(self, name: str, what: str) -> RequestError:
        return RequestError("internal", f"model {self._name!r} gave an output {name!r} {what}")

"""`model_warmup`: requests that a model answers before anybody else asks it, so that the first client does not pay.

A sample is sent to each instance, `count` times. A model that fails at one is not served.
"""

import asyncio
import stat
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelWarmup

from hanbit.common.errors import RepositoryError
from hanbit.repository.config import wire_datatype
from hanbit.server.check import RequestCheck
from hanbit.server.errors import RequestError
from hanbit.server.moments import Moments
from hanbit.server.request import Backend, InferRequest
from hanbit.server.tensors import Tensor, dtype_of, from_raw, num_elements

FOLDER = "warmup"  # of the model's folder: the files that samples name
_MOST_ELEMENTS = 2**28
_MOST_COUNT = 10_000


async def warm_up(config: ModelConfig, version: str, backend: Backend, folder: Path) -> None:
    """Raises RepositoryError."""
    for sample in config.model_warmup:
        request = await asyncio.to_thread(warmup_request, config, version, sample, folder)
        num_instances = len(getattr(backend, "instances", ())) or 1
        for _ in range(max(1, sample.count)):
            try:
                await asyncio.gather(*(_answered(backend, _whole(config, request, n)) for n in range(num_instances)))
            except RequestError as problem:
                raise _wrong(config, sample, f"the model fails at it: {problem}") from None


def warmup_request(config: ModelConfig, version: str, sample: ModelWarmup, folder: Path) -> InferRequest:
    """Held against the configuration as any other. Raises RepositoryError."""
    if sample.count > _MOST_COUNT:
        raise _wrong(config, sample, f"count: {sample.count} is more than {_MOST_COUNT}")
    try:
        inputs = {name: _tensor(config, sample, name, one, folder) for name, one in sorted(sample.inputs.items())}
        request = InferRequest(config.name, inputs, version)
        RequestCheck(config).check(request)
    except RequestError as problem:
        raise _wrong(config, sample, str(problem)) from None
    return request


def _tensor(config: ModelConfig, sample: ModelWarmup, name: str, one: Any, folder: Path) -> Tensor:
    shape = list(one.dims)
    if config.max_batch_size > 0:
        shape = [max(1, sample.batch_size), *shape]
    datatype = wire_datatype(one.data_type)
    kind = one.WhichOneof("input_data_type")
    if num_elements(name, shape) > _MOST_ELEMENTS:
        raise _wrong(config, sample, f"{name!r} of shape {shape} is too large")
    if kind == "input_data_file":
        return from_raw(name, datatype, shape, _content(config, sample, one.input_data_file, folder / FOLDER))
    if kind is None or not getattr(one, kind):
        raise _wrong(config, sample, f"{name!r} needs zero_data: true, random_data: true, or input_data_file")
    make = _zeros if kind == "zero_data" else _random
    data = make(datatype, shape)
    return Tensor(name, datatype, tuple(shape), data)


def _zeros(datatype: str, shape: list[int]) -> np.ndarray:
    found = np.zeros(shape, dtype_of(datatype))
    if datatype == "BYTES":
        found.fill(b"")
    return found


def _random(datatype: str, shape: list[int]) -> np.ndarray:
    """The same for the same shape: a warm-up is to be like the one before."""
    generator = np.random.default_rng(0)
    if datatype == "BYTES":
        found = np.empty(shape, np.object_)
        found[...] = b"warm-up"
        return found
    dtype = np.dtype(dtype_of(datatype))
    if dtype.kind == "f":
        return generator.random(shape).astype(dtype)
    most = 2 if dtype.kind == "b" else 128
    return generator.integers(0, most, shape).astype(dtype)


def _content(config: ModelConfig, sample: ModelWarmup, name: str, folder: Path) -> bytes:
    """A file of the folder itself, as raw as a request would carry it."""
    if not name or "/" in name or "\\" in name or "\0" in name or name in (".", ".."):
        raise _wrong(config, sample, f"input_data_file: {name!r:.80} must be the name of a file in {folder}")
    try:
        found = (folder / name).lstat()
        if not stat.S_ISREG(found.st_mode):
            raise _wrong(config, sample, f"{folder / name} is no file of its own")
        return (folder / name).read_bytes()
    except OSError as problem:
        raise _wrong(config, sample, f"{folder / name} cannot be read: {problem.strerror}") from None


def _whole(config: ModelConfig, request: InferRequest, number: int) -> InferRequest:
    """A sequence of its own for each, where the model wants one."""
    if not config.HasField("sequence_batching"):
        return replace(request, moments=Moments())
    flags = {"sequence_id": number + 1, "sequence_start": True, "sequence_end": True}
    return replace(request, parameters=flags, moments=Moments())


async def _answered(backend: Backend, request: InferRequest) -> None:
    async with aclosing(backend.start().infer(request)) as responses:
        async for _ in responses:
            pass


def _wrong(config: ModelConfig, sample: ModelWarmup, what: str) -> RepositoryError:
    return RepositoryError(f"model {config.name!r}: model_warmup {sample.name!r:.80}: {what}")

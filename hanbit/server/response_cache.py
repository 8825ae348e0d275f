"""Answers that have been given before, for models whose config.pbtxt has `response_cache { enable: true }`.

A key is a hash of 256 bits over which model (as it was loaded: one that is loaded again starts anew), what is asked of
it and every byte of its inputs. What has not been asked for longest goes when the bytes are used up.
"""

import asyncio
import hashlib
import itertools
import json
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import numpy as np
from tritonclient.grpc.model_config_pb2 import ModelConfig

from hanbit.common.errors import ConfigError, RepositoryError
from hanbit.repository.config import is_decoupled
from hanbit.server.request import InferRequest, InferResponse, Run
from hanbit.server.statistics import Statistics
from hanbit.server.tensors import Tensor

_ENTRY_BYTES = 512  # what an answer costs beside its tensors, about
_MOST_BYTES_HERE = 2**20  # more than that is hashed in a thread
_CHANGES_NOTHING = ("timeout", "priority", "headers", "binary_data_output")
_generations = itertools.count()


class ResponseCache:
    """Used on the event loop. `most_bytes`: of all answers together."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.num_bytes = 0
        self._entries: OrderedDict[bytes, tuple[InferResponse, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes) -> InferResponse | None:
        found = self._entries.get(key)
        if found is None:
            return None
        self._entries.move_to_end(key)
        return found[0]

    def put(self, key: bytes, response: InferResponse) -> None:
        """A copy, so that nothing larger is kept with it; nothing if it would take more than all there is."""
        size = _ENTRY_BYTES + sum(_num_bytes(one) for one in response.outputs.values())
        if size > self.most_bytes:
            return
        self._drop(key)
        outputs = {name: _copied(one) for name, one in response.outputs.items()}
        self._entries[key] = InferResponse(outputs, True, dict(response.parameters)), size
        self.num_bytes += size
        while self.num_bytes > self.most_bytes:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: bytes) -> None:
        _, size = self._entries.pop(key, (None, 0))
        self.num_bytes -= size


class ModelCache:
    """The cache as one loaded model uses it, counting into its statistics."""

    def __init__(self, cache: ResponseCache, model: str, version: str, statistics: Statistics) -> None:
        self._cache, self._statistics = cache, statistics
        self._model = (model, version, next(_generations))

    def run(self, inner: Run) -> "_CachedRun":
        return _CachedRun(self, inner)

    async def look_up(self, request: InferRequest) -> tuple[bytes, InferResponse | None]:
        began = time.monotonic_ns()
        size = sum(one.data.nbytes for one in request.inputs.values())
        key = await asyncio.to_thread(self.key, request) if size > _MOST_BYTES_HERE else self.key(request)
        found = self._cache.get(key)
        counted = self._statistics.cache_miss if found is None else self._statistics.cache_hit
        counted.add(time.monotonic_ns() - began)
        return key, found

    def keep(self, key: bytes, response: InferResponse) -> None:
        began = time.monotonic_ns()
        self._cache.put(key, response)
        self._statistics.cache_miss.ns += time.monotonic_ns() - began

    def key(self, request: InferRequest) -> bytes:
        """Every part with its length before it, so that no two requests are the same text."""
        parameters = {name: one for name, one in request.parameters.items() if name not in _CHANGES_NOTHING}
        wanted = sorted(one.name for one in request.outputs)
        inputs = sorted(request.inputs.items())
        shapes = [[name, one.datatype, list(one.shape)] for name, one in inputs]
        head = json.dumps([self._model, wanted, sorted(parameters.items(), key=lambda one: one[0]), shapes])
        digest = hashlib.blake2b(digest_size=32)
        digest.update(len(head).to_bytes(8, "little") + head.encode())
        for _, one in inputs:
            if one.datatype == "BYTES":
                for item in one.data.ravel():
                    digest.update(len(item).to_bytes(8, "little") + item)
            else:
                digest.update(np.ascontiguousarray(one.data).data)
        return digest.digest()


class _CachedRun:
    def __init__(self, cache: ModelCache, inner: Run) -> None:
        self._cache, self._inner = cache, inner

    async def one(self, request: InferRequest) -> InferResponse:
        key, found = await self._cache.look_up(request)
        if found is None:
            found = await self._asked(request)
            self._cache.keep(key, found)
        else:
            request.moments.is_cached = True
        return found

    async def infer(self, request: InferRequest) -> AsyncGenerator[InferResponse]:
        yield await self.one(request)

    async def _asked(self, request: InferRequest) -> InferResponse:
        one: Any = getattr(self._inner, "one", None)
        if one is not None:
            response: InferResponse = await one(request)
            return response
        outputs: Mapping[str, Tensor] = {}
        parameters: Mapping[str, Any] = {}
        async with aclosing(self._inner.infer(request)) as responses:
            async for part in responses:
                outputs, parameters = part.outputs or outputs, part.parameters or parameters
        return InferResponse(outputs, True, parameters)


def can_cache(config: ModelConfig) -> bool:
    """Whether it wants to. Raises RepositoryError for a model that cannot."""
    if not config.response_cache.enable:
        return False
    kinds = {"decoupled: true": is_decoupled(config), "sequence_batching": config.HasField("sequence_batching")}
    for what, is_so in kinds.items():
        if is_so:
            raise RepositoryError(
                f"model {config.name!r}: response_cache does not go with {what}: an answer must be one response, and "
                "follow from its request alone"
            )
    return True


def cache_of(settings: list[str] | None) -> int | None:
    """Bytes of `--cache-config local,size=N`, as often as it is given; None if it is not. Raises ConfigError."""
    found: int | None = None
    for text in settings or ():
        name, separator, value = text.partition(",")
        key, equals, number = value.partition("=")
        if name != "local" or not separator or key != "size" or not equals:
            raise ConfigError(f"--cache-config {text!r:.80} must be local,size=BYTES")
        if not number.isascii() or not number.isdecimal() or not 0 < int(number[:20]) < 2**48:
            raise ConfigError(f"--cache-config {text!r:.80}: size must be a number of bytes, more than 0")
        if found is not None:
            raise ConfigError("--cache-config has a size twice")
        found = int(number)
    return found


def _num_bytes(one: Tensor) -> int:
    if one.datatype == "BYTES":
        return sum(len(item) + 40 for item in one.data.ravel())  # an object and its place
    return one.data.nbytes


def _copied(one: Tensor) -> Tensor:
    data = one.data.copy()
    data.flags.writeable = False  # many will read it
    return Tensor(one.name, one.datatype, one.shape, data)

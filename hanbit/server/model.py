"""One version of a model that is loaded: it checks what comes in, keeps count, and gives only what was asked for."""

import asyncio
import tempfile
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from tritonclient.grpc.model_config_pb2 import ModelConfig

from hanbit.repository.config import ENSEMBLE, is_decoupled, is_ensemble, wire_datatype
from hanbit.server.check import RequestCheck, shape_of
from hanbit.server.errors import invalid
from hanbit.server.request import Backend, InferRequest, InferResponse, Run, Trace
from hanbit.server.response_cache import ModelCache
from hanbit.server.statistics import Statistics, Tally


@dataclass
class ServedModel:
    config: ModelConfig
    version: str
    versions: tuple[str, ...]  # all that are served of this model
    backend: Backend
    statistics: Statistics = field(default_factory=Statistics)
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # of classes, by output
    scratch: "tempfile.TemporaryDirectory[str] | None" = None  # of the files that a client brought for it
    created: int = field(default_factory=lambda: int(time.time()))
    successor: "ServedModel | None" = None  # what is served instead since the model was loaded again
    num_running: int = 0
    cache: "ModelCache | None" = None  # of answers, where the model and the server have one

    name: str = field(init=False)
    is_decoupled: bool = field(init=False)
    check: RequestCheck = field(init=False)

    def __post_init__(self) -> None:
        self.name, self.is_decoupled = self.config.name, is_decoupled(self.config)
        self.check = RequestCheck(self.config)

    @property
    def is_ready(self) -> bool:
        """False while it is away for a moment: a process of it has died and is started again."""
        return bool(getattr(self.backend, "is_ready", True))

    def start(self) -> "CountedRun":
        """For one request, whose input may come in pieces."""
        return CountedRun(self, self.begin_run())

    def begin_run(self) -> Run:
        run = self.backend.start()
        return run if self.cache is None else self.cache.run(run)

    @property
    def newest(self) -> "ServedModel":
        """Itself, or what has taken its place: who found it before asks the other."""
        return self if self.successor is None else self.successor.newest

    async def until_idle(self, patience_seconds: float) -> None:
        """Until every request that has begun is answered, or the patience ends."""
        deadline = time.monotonic() + patience_seconds
        while self.num_running and time.monotonic() < deadline:
            await asyncio.sleep(0.01)

    def infer(self, request: InferRequest) -> AsyncGenerator[InferResponse]:
        """A request whose input is whole. Close the iterator to end the work."""
        return self.start().infer(request)

    async def one(self, request: InferRequest) -> InferResponse:
        """The one response of a request that must not have several. Cancel it to end the work."""
        return await self.start().one(request)

    def rows(self, request: InferRequest) -> int:
        """Of its batch; nothing has been checked yet."""
        if self.config.max_batch_size <= 0:
            return 1
        return next((one.shape[0] for one in request.inputs.values() if one.shape), 1)

    def begin_trace(self, trace: Trace, request: InferRequest) -> None:
        trace.describe(self.name, self.version, request.id)
        trace.inputs(request.inputs.values())

    def metadata(self, version: str = "") -> dict[str, Any]:
        """Of the v2 protocol; of all versions, or of the one that was asked for."""
        platform = ENSEMBLE if is_ensemble(self.config) else self.config.platform or self.config.backend
        return {
            "name": self.name,
            "versions": [version] if version else list(self.versions),
            "platform": platform,
            "inputs": [self._tensor_metadata(one) for one in self.config.input],
            "outputs": [self._tensor_metadata(one) for one in self.config.output],
        }

    def _tensor_metadata(self, one: Any) -> dict[str, Any]:
        return {
            "name": one.name,
            "datatype": wire_datatype(one.data_type),
            "shape": shape_of(self.config, one.dims),
        }


class CountedRun:
    """A run whose requests are checked and counted."""

    def __init__(self, model: ServedModel, run: Run) -> None:
        self._model = model
        self._run = run
        self._has_begun = False

    async def infer(self, request: InferRequest) -> AsyncGenerator[InferResponse]:
        model = self._begin()
        tally = Tally([model.statistics], request.moments, model.rows(request))
        wanted = {output.name for output in request.outputs}
        try:
            model.check.check(request)
            if request.trace is not None:
                model.begin_trace(request.trace, request)
            async with aclosing(self._run.infer(request)) as responses:
                async for response in responses:
                    tally.responded(response.is_last, not response.outputs)
                    if request.trace is not None:
                        request.trace.outputs(response.outputs.values())
                    yield _only(response, wanted) if wanted else response
        except Exception as problem:
            tally.failed(problem)
            raise
        except BaseException:  # cancelled, or nobody reads on
            tally.left()
            raise
        finally:
            model.num_running -= 1
            if request.trace is not None:
                request.trace.computed(request.moments, time.monotonic_ns())

    async def one(self, request: InferRequest) -> InferResponse:
        """The one response of a request that must not have several."""
        self._hand_over()
        one = getattr(self._run, "one", None)
        if one is None or self._model.is_decoupled:
            return await single(self.infer(request))
        model = self._begin()
        tally = Tally([model.statistics], request.moments, model.rows(request))
        try:
            model.check.check(request)
            if request.trace is not None:
                model.begin_trace(request.trace, request)
            response: InferResponse = await one(request)
        except Exception as problem:
            tally.failed(problem)
            raise
        except BaseException:
            tally.left()
            raise
        finally:
            model.num_running -= 1
        tally.responded(True)
        if request.trace is not None:
            request.trace.outputs(response.outputs.values())
            request.trace.computed(request.moments, time.monotonic_ns())
        return _only(response, {output.name for output in request.outputs}) if request.outputs else response

    def _begin(self) -> ServedModel:
        """Its model, which is not closed before the request has ended."""
        self._hand_over()
        self._has_begun = True
        self._model.num_running += 1
        return self._model

    def _hand_over(self) -> None:
        """Whoever found a model that has been loaded again since, and has not begun yet, asks the new one."""
        if self._model.successor is not None and not self._has_begun:
            self._model = self._model.newest
            self._run = self._model.begin_run()


def _only(response: InferResponse, wanted: set[str]) -> InferResponse:
    return replace(response, outputs={name: one for name, one in response.outputs.items() if name in wanted})


async def single(responses: AsyncGenerator[InferResponse]) -> InferResponse:
    """The one response of a request that must not have several."""
    found: InferResponse | None = None
    async with aclosing(responses):
        async for response in responses:
            if found is not None and response.outputs:
                raise invalid("this model answers in several responses: ask it through a stream")
            found = response if found is None or response.outputs else found
    assert found is not None, "a run ends with a last response"
    return found

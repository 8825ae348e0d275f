"""A model made of models: each step runs as soon as the tensors that it reads exist.

A step that answers in pieces starts a wave with every piece: the steps behind it run again, in the same run of theirs,
so a detokenizer remembers half a character from one piece to the next. Waves are pulled by the reader: what nobody
takes is not computed, and closing the iterator ends the work of every step.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from tritonclient.grpc.model_config_pb2 import ModelConfig

from hanbit.server.model import CountedRun, ServedModel, single
from hanbit.server.request import InferRequest, InferResponse, Run
from hanbit.server.tensors import Tensor

FindModel = Callable[[str, str], ServedModel]


@dataclass(frozen=True)
class _Member:
    """What the configuration says of a step; see _Step."""

    name: str
    version: str
    reads: Mapping[str, str]
    writes: Mapping[str, str]


@dataclass(frozen=True)
class _Step:
    """`reads`: the model's input -> tensor of the ensemble; `writes`: the model's output -> tensor of the ensemble."""

    model: ServedModel
    run: CountedRun
    is_decoupled: bool
    reads: Mapping[str, str]
    writes: Mapping[str, str]


@dataclass(frozen=True)
class _Wave:
    """Tensors by the ensemble's names, and the steps that have run."""

    tensors: Mapping[str, Tensor]
    done: frozenset[int]
    is_last: bool


class Ensemble:
    """A backend. `find` gives the member of a name and version when a request comes."""

    def __init__(self, config: ModelConfig, find: FindModel) -> None:
        self._inputs = frozenset(one.name for one in config.input)
        self._outputs = [one.name for one in config.output]
        self._members = [  # read once: a message's fields are slow
            _Member(
                step.model_name,
                str(step.model_version) if step.model_version > 0 else "",
                dict(step.input_map),
                dict(step.output_map),
            )
            for step in config.ensemble_scheduling.step
        ]
        self._find = find

    def start(self) -> Run:
        """Raises RequestError if a member is away."""
        steps = []
        for one in self._members:
            model = self._find(one.name, one.version)
            steps.append(_Step(model, model.start(), model.is_decoupled, one.reads, one.writes))
        return _EnsembleRun(self._inputs, self._outputs, steps)

    def close(self) -> None:
        """Its members are models of their own."""


class _EnsembleRun:
    def __init__(self, inputs: frozenset[str], outputs: list[str], steps: list[_Step]) -> None:
        self._inputs, self._outputs = inputs, outputs
        self._steps = steps
        self._indices = range(len(steps))

    async def one(self, request: InferRequest) -> InferResponse:
        """One wave, unless a step answers in pieces."""
        if any(step.is_decoupled for step in self._steps):
            return await single(self.infer(request))
        wave = _Wave(request.inputs, frozenset(), request.is_last)
        while ready := self._ready(wave):
            wave = await self._run_together(request, ready, wave)
        return self._response(wave)

    async def infer(self, request: InferRequest) -> AsyncGenerator[InferResponse]:
        first = _Wave(request.inputs, frozenset(), request.is_last)
        async with aclosing(self._flow(request, first)) as waves:
            async for wave in waves:
                yield self._response(wave)

    async def _flow(self, request: InferRequest, wave: _Wave) -> AsyncGenerator[_Wave]:
        """Waves in which every step that can run has run."""
        while True:
            ready = self._ready(wave)
            at_once = [index for index in ready if not self._steps[index].is_decoupled]
            if not at_once:
                break
            wave = await self._run_together(request, at_once, wave)
        if not ready:
            yield wave
            return
        async with aclosing(self._run_in_pieces(request, ready[0], wave)) as flow:
            async for one in flow:
                yield one

    async def _run_together(self, request: InferRequest, indices: list[int], wave: _Wave) -> _Wave:
        if len(indices) == 1:  # the usual chain; no task, no turn of the loop
            responses = [await self._one(request, indices[0], wave)]
        else:
            responses = await self._together([self._one(request, index, wave) for index in indices])
        for index, response in zip(indices, responses, strict=True):
            wave = self._after(index, response, wave, wave.is_last)
        return wave

    async def _run_in_pieces(self, request: InferRequest, index: int, wave: _Wave) -> AsyncGenerator[_Wave]:
        asked = self._asked(request, index, wave)
        async with aclosing(self._steps[index].run.infer(asked)) as responses:
            async for response in responses:
                after = self._after(index, response, wave, wave.is_last and response.is_last)
                async with aclosing(self._flow(request, after)) as flow:
                    async for one in flow:
                        yield one

    def _response(self, wave: _Wave) -> InferResponse:
        return InferResponse({name: wave.tensors[name] for name in self._outputs if name in wave.tensors}, wave.is_last)

    def _ready(self, wave: _Wave) -> list[int]:
        return [index for index in self._indices if self._is_ready(index, wave)]

    def _is_ready(self, index: int, wave: _Wave) -> bool:
        """An ensemble's input that was not given is optional and will not come."""
        if index in wave.done:
            return False
        return all(name in wave.tensors or name in self._inputs for name in self._steps[index].reads.values())

    async def _together(self, works: list[Coroutine[Any, Any, InferResponse]]) -> list[InferResponse]:
        """The first that fails ends the others, and its error is the ensemble's."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(work) for work in works]
        except ExceptionGroup as problems:
            raise problems.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _one(self, request: InferRequest, index: int, wave: _Wave) -> InferResponse:
        return await self._steps[index].run.one(self._asked(request, index, wave))

    def _asked(self, request: InferRequest, index: int, wave: _Wave) -> InferRequest:
        step = self._steps[index]
        inputs = {
            name: wave.tensors[source].renamed(name) for name, source in step.reads.items() if source in wave.tensors
        }
        trace = None if request.trace is None else request.trace.child()
        model, parameters = step.model, request.parameters
        return InferRequest(model.name, inputs, model.version, request.id, (), parameters, wave.is_last, trace)

    def _after(self, index: int, response: InferResponse, wave: _Wave, is_last: bool) -> _Wave:
        writes = self._steps[index].writes
        written = {writes[name]: one.renamed(writes[name]) for name, one in response.outputs.items() if name in writes}
        return _Wave({**wave.tensors, **written}, wave.done | {index}, is_last)

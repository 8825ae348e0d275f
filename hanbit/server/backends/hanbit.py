"""`backend: "hanbit"`: token ids to token ids, by the engine. Parameters: model_folder, adapter (a folder) if any.

Inputs and parameters of a request say how tokens are chosen, by the names of SamplingParams; what neither says is as
the model's makers chose. With `stream` every piece is a response of its own, else the whole answer is one.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from tritonclient.grpc.model_config_pb2 import ModelConfig

from hanbit.engine.choices import chosen, each
from hanbit.engine.output import Piece
from hanbit.engine.sampling_params import SamplingParams
from hanbit.engine.service import Turn
from hanbit.repository.config import parameter, required_parameter
from hanbit.server.engines import Engines
from hanbit.server.errors import invalid
from hanbit.server.request import InferRequest, InferResponse
from hanbit.server.requested import timeout_seconds_of
from hanbit.server.sampling import priority_of, sampling_of, turn_of, wants_stream
from hanbit.server.tensors import tensor


@dataclass(frozen=True)
class _Order:
    """When an answer is worked on, and until when; and of which session it is a turn."""

    priority: int
    timeout_seconds: float | None
    turn: Turn | None


class Backend:
    def __init__(self, config: ModelConfig, engines: Engines) -> None:
        folder = Path(required_parameter(config, "model_folder"))
        adapter = parameter(config, "adapter")
        self._engines = engines
        self.service = engines.take(folder)
        self.adapter = config.name if adapter else None
        try:
            if adapter:
                self.service.llm.add_adapter(config.name, Path(adapter))
        except BaseException:
            self.close()
            raise

    def start(self) -> "Backend":
        return self

    async def infer(self, request: InferRequest) -> AsyncGenerator[InferResponse]:
        params = sampling_of(request, self.service.llm.defaults.sampling)
        in_pieces = wants_stream(request)
        order = _Order(priority_of(request), timeout_seconds_of(request), turn_of(request))
        await self.service.prepare(params)
        token_ids: list[int] = []
        if params.best_of not in (None, 1):
            if in_pieces:
                raise invalid("the best of several answers is known when all are over: leave out stream or best_of")
            if order.turn is not None:
                raise invalid("a session goes on with one answer: leave out sequence_id or best_of")
            yield await self._best(request.inputs["input_ids"].data.tolist(), params, order)
            return
        async with aclosing(self._pieces(request.inputs["input_ids"].data.tolist(), params, order)) as pieces:
            async for piece in pieces:
                token_ids += piece.token_ids
                if in_pieces or piece.finish_reason is not None:
                    yield _response(token_ids, piece.finish_reason)
                    token_ids = []

    async def _best(self, prompt: list[int], params: SamplingParams, order: "_Order") -> InferResponse:
        async def whole(one: SamplingParams) -> list[Piece]:
            return [piece async for piece in self._pieces(prompt, one, order)]

        try:
            async with asyncio.TaskGroup() as group:  # the first that fails ends the others
                tasks = [group.create_task(whole(one)) for one in each(params)]
        except ExceptionGroup as problems:
            raise problems.exceptions[0] from None
        answers = [task.result() for task in tasks]
        told = [[one for piece in answer for one in piece.logprobs] for answer in answers]
        best = answers[chosen(params, told)[0]]
        return _response([id for piece in best for id in piece.token_ids], best[-1].finish_reason)

    async def _pieces(self, prompt: list[int], params: SamplingParams, order: "_Order") -> AsyncGenerator[Piece]:
        stream = self.service.stream(
            prompt,
            params,
            adapter=self.adapter,
            priority=order.priority,
            timeout_seconds=order.timeout_seconds,
            turn=order.turn,
        )
        async with aclosing(stream) as answer:
            async for piece in answer:
                yield piece

    @property
    def is_ready(self) -> bool:
        return not self.service.is_closed

    @property
    def num_waiting(self) -> int:
        """Of all models that share the engine."""
        return self.service.waiting

    def close(self) -> None:
        self._engines.give_back(self.service)


def _response(token_ids: list[int], finish_reason: str | None) -> InferResponse:
    """`finish_reason` is empty until the answer ends."""
    outputs = (tensor("output_ids", "INT32", token_ids), tensor("finish_reason", "BYTES", [finish_reason or ""]))
    return InferResponse({one.name: one for one in outputs}, finish_reason is not None)

"""`backend: "hanbit_embed"`: texts to vectors, by the engine. Parameters: model_folder.

Parameters of a request: normalize, truncate_prompt_tokens as `Embedder.embed` has them, and the protocol's timeout.
"""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

from tritonclient.grpc.model_config_pb2 import ModelConfig

from hanbit.common.errors import DeadlinePassed
from hanbit.engine.embedder import Text
from hanbit.repository.config import required_parameter
from hanbit.server.embedding_model import EmbeddingModel
from hanbit.server.engines import Engines
from hanbit.server.errors import invalid
from hanbit.server.request import InferRequest, InferResponse
from hanbit.server.requested import RESERVED, timeout_seconds_of
from hanbit.server.tensors import tensor, texts

_KNOWN = ("normalize", "truncate_prompt_tokens")


class Backend:
    def __init__(self, config: ModelConfig, engines: Engines) -> None:
        self._engines = engines
        self.service = engines.take_embedder(Path(required_parameter(config, "model_folder")))
        self._model = EmbeddingModel(config.name, self.service, 0)

    def start(self) -> "Backend":
        return self

    async def infer(self, request: InferRequest) -> AsyncGenerator[InferResponse]:
        normalize, most = _asked(request)
        seconds = timeout_seconds_of(request)
        given: list[Text] = [*texts(request.inputs["text_input"])]
        if not given:
            raise invalid("text_input has no texts")
        try:
            async with asyncio.timeout(seconds):
                made = await self._model.embed(given, normalize, most)
        except TimeoutError:
            raise DeadlinePassed(f"the time for these {len(given)} texts is up. Give it more, or send fewer") from None
        yield InferResponse({"embedding": tensor("embedding", "FP32", made.vectors.numpy())})

    @property
    def is_ready(self) -> bool:
        return not self.service.is_closed

    def close(self) -> None:
        self._engines.give_back(self.service)


def _asked(request: InferRequest) -> tuple[bool | None, int | None]:
    """Raises RequestError."""
    for name in request.parameters:
        if name not in (*_KNOWN, *RESERVED) and not name.startswith("triton_"):
            raise invalid(f"unknown parameter {name!r:.80}; known are {', '.join(_KNOWN)}")
    normalize, most = (request.parameters.get(name) for name in _KNOWN)
    if not isinstance(normalize, bool | None):
        raise invalid(f"normalize={normalize!r:.40} must be true or false")
    if isinstance(most, bool) or not isinstance(most, int | None):
        raise invalid(f"truncate_prompt_tokens={most!r:.40} must be a whole number")
    return normalize, most

"""`backend: "hanbit_detokenize"`: token ids to text, in pieces where they come in pieces. Parameters: model_folder.

A run holds back half a character until it is whole, and what may be the beginning of a stop text, as the engine does
for its own callers: the texts of all pieces joined are the text of all ids.
"""

from collections.abc import AsyncGenerator
from pathlib import Path

from tritonclient.grpc.model_config_pb2 import ModelConfig

from hanbit.engine.stop import StopText
from hanbit.repository.config import required_parameter
from hanbit.server.engines import Engines
from hanbit.server.errors import invalid
from hanbit.server.request import InferRequest, InferResponse
from hanbit.server.sampling import min_tokens_of, stops_of
from hanbit.server.tensors import tensor
from hanbit.tokenizers.load import load
from hanbit.tokenizers.stream import TextStream
from hanbit.tokenizers.tokenizer import Tokenizer


class Backend:
    def __init__(self, config: ModelConfig, engines: Engines) -> None:
        self._tokenizer = load(Path(required_parameter(config, "model_folder")))

    def start(self) -> "_Run":
        return _Run(self._tokenizer)

    def close(self) -> None:
        """A tokenizer holds nothing that must be given back."""


class _Run:
    def __init__(self, tokenizer: Tokenizer) -> None:
        self._text = TextStream(tokenizer)
        self._stop: StopText | None = None

    async def infer(self, request: InferRequest) -> AsyncGenerator[InferResponse]:
        if self._stop is None:
            self._stop = StopText(stops_of(request), min_tokens_of(request))
        token_ids = request.inputs["output_ids"].data.tolist()
        if any(id < 0 for id in token_ids):
            raise invalid("output_ids are token ids, from 0")
        said = [self._stop.push(self._text.push(id)) for id in token_ids]
        if request.is_last and not self._stop.is_stopped:
            said.append(self._stop.push(self._text.finish()))
            said.append(self._stop.finish())
        yield InferResponse({"text_output": tensor("text_output", "BYTES", ["".join(said)])}, request.is_last)

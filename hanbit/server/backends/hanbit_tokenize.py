"""`backend: "hanbit_tokenize"`: text to token ids. Parameters: model_folder; chat_template, "auto" or "none".

With "auto" and a model that has a chat template the text is one message of a user, otherwise it is a text to continue.
A later turn of a session is taken as it is written: it stands in the midst of a text.
"""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

from tritonclient.grpc.model_config_pb2 import ModelConfig

from hanbit.checkpoint.model_folder import read_config
from hanbit.common.errors import RepositoryError
from hanbit.repository.config import parameter, required_parameter
from hanbit.server.engines import Engines
from hanbit.server.errors import invalid
from hanbit.server.request import InferRequest, InferResponse
from hanbit.server.sampling import turn_of
from hanbit.server.tensors import tensor, texts
from hanbit.tokenizers import chat
from hanbit.tokenizers.load import load

_AT_ONCE_BYTES = 4096  # a longer text is encoded in a thread: other requests need not wait for it


class Backend:
    def __init__(self, config: ModelConfig, engines: Engines) -> None:
        folder = Path(required_parameter(config, "model_folder"))
        self._tokenizer = load(folder)
        choice = parameter(config, "chat_template", "auto")
        if choice not in ("auto", "none"):
            raise RepositoryError(f'model {config.name!r}: chat_template {choice!r:.80} must be "auto" or "none"')
        self._is_chat = choice == "auto" and self._tokenizer.chat_template is not None
        self._context = read_config(folder).context
        longest = max((len(token.encode()) for token in self._tokenizer.core.get_vocab()), default=1)
        self._most_bytes = self._context * longest

    def start(self) -> "Backend":
        return self

    async def infer(self, request: InferRequest) -> AsyncGenerator[InferResponse]:
        text = texts(request.inputs["text_input"])[0]
        size = len(text.encode())
        if size > self._most_bytes:
            raise invalid(
                f"text_input has {size} bytes; the model's context holds {self._context} tokens, which cannot be more "
                f"than {self._most_bytes} bytes. Shorten it"
            )
        turn = turn_of(request)
        encode = self._encode if turn is None or turn.is_first else self._encode_later
        token_ids = encode(text) if size <= _AT_ONCE_BYTES else await asyncio.to_thread(encode, text)
        yield InferResponse({"input_ids": tensor("input_ids", "INT32", token_ids)})

    def close(self) -> None:
        """A tokenizer holds nothing that must be given back."""

    def _encode_later(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False)

    def _encode(self, text: str) -> list[int]:
        if not self._is_chat:
            return self._tokenizer.encode(text)
        prompt = chat.render(self._tokenizer, [{"role": "user", "content": text}])
        return self._tokenizer.encode(prompt, add_special_tokens=False)

"""Engines by folder: models of a repository that name the same folder share one, loaded once.

`take` and `give_back` are called from loading threads; the lock also keeps one folder from being loaded twice.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from hanbit.engine.embedder import Embedder
from hanbit.engine.embedding_service import EmbeddingService
from hanbit.engine.llm import LLM
from hanbit.engine.service import Service
from hanbit.server.options import EngineOptions

Engine = TypeVar("Engine", Service, EmbeddingService)


@dataclass
class _Shared:
    service: Service | EmbeddingService
    users: int = 0


class Engines:
    def __init__(self, options: EngineOptions) -> None:
        self.options = options
        self._lock = threading.Lock()
        self._shared: dict[Path, _Shared] = {}

    def take(self, folder: Path | str) -> Service:
        """The engine of a model folder. Raises ModelError, DataError, GenerationError as LLM does."""
        return self._taken(folder, self._load, Service)

    def take_embedder(self, folder: Path | str) -> EmbeddingService:
        """That of a folder of embeddings. Raises ModelError, DataError, GenerationError as Embedder does."""
        return self._taken(folder, self._load_embedder, EmbeddingService)

    def _taken(self, folder: Path | str, load: Callable[[Path], Engine], kind: type[Engine]) -> Engine:
        key = Path(folder).resolve()
        with self._lock:
            if key not in self._shared:
                self._shared[key] = _Shared(load(key))
            service = self._shared[key].service
            assert isinstance(service, kind), "no folder is read by both"
            self._shared[key].users += 1
            return service

    def give_back(self, service: Service | EmbeddingService) -> None:
        """The last user's leaving ends the engine and frees its memory."""
        with self._lock:
            key = next(key for key, shared in self._shared.items() if shared.service is service)
            self._shared[key].users -= 1
            if self._shared[key].users == 0:
                del self._shared[key]
                service.close()

    def _load_embedder(self, folder: Path) -> EmbeddingService:
        options = self.options
        embedder = Embedder(
            folder,
            dtype=options.dtype,
            device=options.device,
            max_num_batched_tokens=options.max_num_batched_tokens,
        )
        return EmbeddingService(embedder, max_waiting=options.max_waiting)

    def _load(self, folder: Path) -> Service:
        options = self.options
        llm = LLM(
            folder,
            dtype=options.dtype,
            device=options.device,
            quantization=options.quantization,
            max_model_len=options.max_model_len,
            max_sequences=options.max_sequences,
            block_size=options.block_size,
            num_blocks=options.num_blocks,
            kv_cache_gb=options.kv_cache_gb,
            kv_cache_dtype=options.kv_cache_dtype,
            max_num_batched_tokens=options.max_num_batched_tokens,
            enable_prefix_caching=options.enable_prefix_caching,
            speculation=options.speculation,
            max_sessions=options.max_sessions,
            session_timeout_seconds=options.session_timeout_seconds,
        )
        return Service(llm, max_sequences=options.max_sequences, max_waiting=options.max_waiting)

"""The backend of a name: a file beside this one. Names come from files, so they are looked up, never imported as is."""

import importlib
from collections.abc import Callable
from pathlib import Path

from tritonclient.grpc.model_config_pb2 import ModelConfig

from hanbit.common.errors import RepositoryError
from hanbit.server.engines import Engines
from hanbit.server.request import Backend

_NOT_BACKENDS = {"__init__", "find"}


def backend_names() -> list[str]:
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in _NOT_BACKENDS)


def backend_class(config: ModelConfig) -> Callable[[ModelConfig, Engines], Backend]:
    """Raises RepositoryError with the backends that exist."""
    if config.backend not in backend_names():
        raise RepositoryError(
            f"model {config.name!r}: there is no backend {config.backend!r:.80}; there are {', '.join(backend_names())}"
        )
    return importlib.import_module(f"hanbit.server.backends.{config.backend}").Backend

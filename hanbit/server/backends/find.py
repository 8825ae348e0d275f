"""The backend of a name: a file beside this one. Names come from files, so they are looked up, never imported as is."""

import asyncio
import importlib
from dataclasses import dataclass
from pathlib import Path

from tritonclient.grpc.model_config_pb2 import ModelConfig

from hanbit.common.errors import RepositoryError
from hanbit.server.engines import Engines
from hanbit.server.python_models.ask import Server
from hanbit.server.request import Backend

_NOT_BACKENDS = {"__init__", "find"}


@dataclass(frozen=True)
class Surroundings:
    """What a model may need beside its configuration. `folder`: its own, with the versions in it; `server`: for those
    that ask other models; `completes`: a model may complete its configuration."""

    engines: Engines
    folder: Path
    version: str
    server: Server
    completes: bool = True


@dataclass(frozen=True)
class Loaded:
    """`config`: completed by the model, where it says more of itself than its file."""

    config: ModelConfig
    backend: Backend


def backend_names() -> list[str]:
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in _NOT_BACKENDS)


async def load_backend(config: ModelConfig, around: Surroundings) -> Loaded:
    """Raises RepositoryError, with the backends that exist if there is no such one; and what the backend raises."""
    if config.backend not in backend_names():
        raise RepositoryError(
            f"model {config.name!r}: there is no backend {config.backend!r:.80}; there are {', '.join(backend_names())}"
        )
    module = importlib.import_module(f"hanbit.server.backends.{config.backend}")
    if hasattr(module, "load_model"):
        loaded: Loaded = await module.load_model(config, around)
        return loaded
    return Loaded(config, await asyncio.to_thread(module.Backend, config, around.engines))

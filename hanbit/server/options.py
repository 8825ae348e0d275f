"""What a server is started with; checked before a port is taken or a model is read. No torch."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hanbit.common.errors import ConfigError
from hanbit.engine.speculation import Speculation


@dataclass(frozen=True)
class EngineOptions:
    """For every engine of a server. `max_waiting`: prompts that may wait beyond those being answered; the cache's
    options are those of the LLM."""

    dtype: str = "auto"
    device: str = "auto"
    max_sequences: int = 8
    max_waiting: int = 256
    block_size: int = 16
    num_blocks: int | None = None
    kv_cache_gb: float | None = None
    kv_cache_dtype: str = "auto"
    max_num_batched_tokens: int = 1024
    enable_prefix_caching: bool = True
    quantization: str = "auto"
    speculation: Speculation = field(default_factory=Speculation)
    max_sessions: int = 64
    session_timeout_seconds: float = 600.0


@dataclass(frozen=True)
class ServeOptions:
    """
    models: name -> model folder, or run folder; adapters: name -> LoRA folder of the first model.
    repositories: Triton model repositories, beside or instead of the models.
    http_port, grpc_port: 0 takes a free one.
    exit_timeout_seconds: how long a server that is to end waits for answers being made.
    load: of the repositories' models these only; None is all, unless clients may change them.
    clients_change_models: clients may load and unload (`--model-control-mode explicit`).
    fail_if_a_model_fails: else the server comes up with the models that could be loaded.
    api_key: what clients must send as `Authorization: Bearer KEY`; insecure: a public address without one.
    """

    models: Mapping[str, Path] = field(default_factory=dict)
    adapters: Mapping[str, Path] = field(default_factory=dict)
    repositories: tuple[Path, ...] = ()
    host: str = "127.0.0.1"
    http_port: int = 8000
    grpc_port: int = 8001
    exit_timeout_seconds: float = 30.0
    load: tuple[str, ...] | None = None
    clients_change_models: bool = False
    fail_if_a_model_fails: bool = True
    api_key: str | None = None
    insecure: bool = False
    engines: EngineOptions = field(default_factory=EngineOptions)

    def check(self) -> None:
        """Raises ConfigError."""
        if not self.models and not self.repositories:
            raise ConfigError("nothing to serve: name a model FOLDER, --model NAME=FOLDER or --model-repository DIR")
        if self.adapters and len(self.models) != 1:
            raise ConfigError("an adapter belongs to one model: give one FOLDER or --model, or `hanbit deploy` them")
        for flag, port in (("--http-port", self.http_port), ("--grpc-port", self.grpc_port)):
            if not 0 <= port <= 65535:
                raise ConfigError(f"{flag} {port} must be from 1 to 65535, or 0 for a free one")
        if self.http_port == self.grpc_port != 0:
            raise ConfigError(f"--http-port and --grpc-port are both {self.http_port}: choose two")
        if self.exit_timeout_seconds < 0:
            raise ConfigError(f"--exit-timeout-secs {self.exit_timeout_seconds:g} must be 0 or more")
        if self.api_key == "":
            raise ConfigError("--api-key is empty: give one, or leave it out")
        if not _is_loopback(self.host) and self.api_key is None and not self.insecure:
            raise ConfigError(
                f"--host {self.host} lets other machines in: protect it with --api-key KEY, or say --insecure"
            )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

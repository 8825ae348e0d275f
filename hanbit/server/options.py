"""What a server is started with; checked before a port is taken or a model is read. No torch."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

from hanbit.common.errors import ConfigError
from hanbit.engine.speculation import Speculation
from hanbit.server.access import Keys, read_keys, the_key
from hanbit.server.extensions.log_settings import LogOptions
from hanbit.server.extensions.trace_settings import TraceOptions
from hanbit.server.restrictions import Restrictions
from hanbit.server.tls import Tls

MOST_INPUT_BYTES = 64 * 2**20


@dataclass(frozen=True)
class EngineOptions:
    """For every engine of a server. `max_waiting`: prompts that may wait beyond those being answered; the cache's
    options are those of the LLM."""

    dtype: str = "auto"
    device: str = "auto"
    max_model_len: int | None = None
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
    http_port, grpc_port: 0 takes a free one. metrics_port: None is 8002 if nobody has it; has_metrics_port: else
    /metrics is on the HTTP port alone.
    exit_timeout_seconds: how long a server that is to end waits for answers being made.
    load: of the repositories' models these only; None is all, unless clients may change them; "*" is
        all then.
    clients_change_models: clients may load and unload (`--model-control-mode explicit`).
    poll_seconds: how often the repositories are looked at for changes (`--model-control-mode poll`), None is never.
    load_threads: models that are loaded at once.
    cache_bytes: of answers of models that have a response_cache; None: there is none.
    completes_configs: what a config.pbtxt leaves open is completed from the model.
    fail_if_a_model_fails: else the server comes up with the models that could be loaded.
    api_key: what clients must send as `Authorization: Bearer KEY`; api_keys: a file of keys with roles (access.py);
    insecure: a public address without one.
    access_log: a file to which each request adds a line of JSON, "-" is standard error.
    tls: of HTTP, gRPC and the metrics' port.
    client_shared_memory: clients may register memory of this machine (`--allow-client-shm`).
    client_files: a client's load may bring files of the model, programs too (`--allow-client-files`).
    trace, log: as clients find them, and may change them but for their files.
    max_input_bytes: of a body over HTTP, packed or unpacked, and of a message over gRPC.
    http_restrictions, grpc_restrictions: parts of the protocols that want a header.
    """

    models: Mapping[str, Path] = field(default_factory=dict)
    adapters: Mapping[str, Path] = field(default_factory=dict)
    repositories: tuple[Path, ...] = ()
    host: str = "127.0.0.1"
    http_port: int = 8000
    grpc_port: int = 8001
    metrics_port: int | None = None
    has_metrics_port: bool = True
    exit_timeout_seconds: float = 30.0
    load: tuple[str, ...] | None = None
    clients_change_models: bool = False
    poll_seconds: float | None = None
    load_threads: int = 4
    cache_bytes: int | None = None
    completes_configs: bool = True
    fail_if_a_model_fails: bool = True
    api_key: str | None = None
    api_keys: Path | None = None
    insecure: bool = False
    access_log: str | None = None
    tls: Tls = field(default_factory=Tls)
    client_shared_memory: bool = False
    client_files: bool = False
    trace: TraceOptions = field(default_factory=TraceOptions)
    log: LogOptions = field(default_factory=LogOptions)
    max_input_bytes: int = MOST_INPUT_BYTES
    http_restrictions: Restrictions = field(default_factory=Restrictions)
    grpc_restrictions: Restrictions = field(default_factory=Restrictions)
    engines: EngineOptions = field(default_factory=EngineOptions)

    def check(self) -> None:
        """Raises ConfigError."""
        if not self.models and not self.repositories:
            raise ConfigError("nothing to serve: name a model FOLDER, --model NAME=FOLDER or --model-repository DIR")
        if self.adapters and len(self.models) != 1:
            raise ConfigError("an adapter belongs to one model: give one FOLDER or --model, or `hanbit deploy` them")
        self._check_ports()
        if self.exit_timeout_seconds < 0:
            raise ConfigError(f"--exit-timeout-secs {self.exit_timeout_seconds:g} must be 0 or more")
        if self.poll_seconds is not None and not 0 < self.poll_seconds <= 86_400:
            raise ConfigError(f"--repository-poll-secs {self.poll_seconds:g} must be more than 0, at most a day")
        if not 1 <= self.load_threads <= 64:
            raise ConfigError(f"--model-load-thread-count {self.load_threads} must be from 1 to 64")
        if not 1 <= self.max_input_bytes < 2**31:
            raise ConfigError(f"--http-max-input-size {self.max_input_bytes} must be bytes, from 1 to below 2^31")
        self.log.check()
        if self.api_key == "":
            raise ConfigError("--api-key is empty: give one, or leave it out")
        self.tls.check()
        if not _is_loopback(self.host) and not self.keys() and not self.tls.asks_clients and not self.insecure:
            raise ConfigError(
                f"--host {self.host} lets other machines in: protect it with --api-key KEY, or say --insecure"
            )

    def _check_ports(self) -> None:
        ports = {"--http-port": self.http_port, "--grpc-port": self.grpc_port}
        if self.metrics_port is not None and self.has_metrics_port:
            ports["--metrics-port"] = self.metrics_port
        for flag, port in ports.items():
            if not 0 <= port <= 65535:
                raise ConfigError(f"{flag} {port} must be from 1 to 65535, or 0 for a free one")
        for (one, port), (other, its) in combinations(ports.items(), 2):
            if port == its != 0:
                raise ConfigError(f"{one} and {other} are both {port}: choose two")

    def keys(self) -> Keys:
        """Raises ConfigError."""
        one = [] if self.api_key is None else [the_key(self.api_key)]
        return Keys([*one, *([] if self.api_keys is None else read_keys(self.api_keys))])


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

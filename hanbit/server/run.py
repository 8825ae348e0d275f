"""A server's life: take the ports, open them, load the models, serve, let nothing in any more, finish, end.

HTTP and gRPC run in one event loop over one catalogue. The ports are open while models load: health checks answer, and
requests for a model that is not there yet are told so.
"""

import asyncio
import contextlib
import logging
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from hanbit.common.errors import ConfigError, ServingError
from hanbit.formats.hub import folder_of
from hanbit.repository.deploy import deploy
from hanbit.server.access_log import AccessLog, HttpLog
from hanbit.server.app import build_app, build_metrics_app
from hanbit.server.engines import Engines
from hanbit.server.extensions.log_settings import LogSettings
from hanbit.server.extensions.offered import Extensions
from hanbit.server.extensions.shared_memory import SharedMemory
from hanbit.server.extensions.trace import Tracing
from hanbit.server.grpc_server import GrpcServer
from hanbit.server.models import Catalogue
from hanbit.server.names import served_name
from hanbit.server.options import ServeOptions
from hanbit.server.polling import Watch, look_at, poll
from hanbit.server.ports import check_free, listen
from hanbit.server.response_cache import ResponseCache

log = logging.getLogger(__name__)

_METRICS_PORT = 8002  # Triton's
_KEEP_ALIVE_SECONDS = 75  # longer than a load balancer's minute


def serve(model: Path | str | None = None, *, name: str | None = None, **options: Any) -> None:
    """Serve a model folder until the process is told to end; `options` as ServeOptions has them."""
    chosen = ServeOptions(**options)
    if model is not None:
        chosen = replace(chosen, models={name or served_name(Path(model)): Path(model), **chosen.models})
    run(chosen, log.info)


def run(options: ServeOptions, announce: Callable[[str], None]) -> None:
    """`announce` gets the line that says where the server is, once it is ready.

    Returns after SIGTERM or SIGINT, when what was being answered has been answered, or the patience has ended. Raises
    ConfigError, ServingError, RepositoryError before anything is served.
    """
    options.check()
    with (
        _repositories(options) as repositories,
        contextlib.closing(_http_socket(options)) as http,
        _metrics_socket(options) as metrics,
        asyncio.Runner(loop_factory=_new_loop) as runner,
    ):
        runner.run(Server(options, repositories, http, metrics).run(announce))


class Server:
    """`http`, `metrics`: listening sockets. Made for one event loop, which `run` is awaited in."""

    def __init__(
        self,
        options: ServeOptions,
        repositories: list[Path],
        http: socket.socket,
        metrics: socket.socket | None = None,
    ) -> None:
        self._options = options
        self._extensions = _extensions(options)
        self.catalogue = Catalogue(
            repositories,
            Engines(options.engines),
            options.clients_change_models,
            options.completes_configs,
            options.load_threads,
            self._extensions,
            None if options.cache_bytes is None else ResponseCache(options.cache_bytes),
        )
        self._watch = Watch()
        self._socket = http
        self._keys = options.keys()
        self._log = None if options.access_log is None else AccessLog(options.access_log, self._keys)
        app = build_app(self.catalogue, self._keys, options.http_restrictions, options.max_input_bytes)
        self._http = self._answering(app)
        self._metrics = self._answering(build_metrics_app(self.catalogue, self._keys))
        self._metrics_socket = metrics
        self._is_to_end = asyncio.Event()
        self.http_port: int = http.getsockname()[1]
        self.metrics_port: int | None = None if metrics is None else metrics.getsockname()[1]
        self.grpc_port = options.grpc_port

    def end(self) -> None:
        """As a signal does; called again, it cuts off what is still being answered."""
        self._is_to_end.set()

    async def run(self, announce: Callable[[str], None]) -> None:
        self.catalogue.names()  # a repository that is none is said before ports are opened
        options = self._options
        grpc = GrpcServer(
            self.catalogue,
            _address(options),
            self._keys,
            options.tls.of_grpc(),
            self._log,
            options.grpc_restrictions,
            options.max_input_bytes,
        )
        self.grpc_port = grpc.port
        await grpc.start()
        self._listen_to_signals()
        serving = asyncio.create_task(self._serve())
        try:
            await self._until_ended(self._load(grpc, announce), serving)
            polling = asyncio.create_task(self._poll())
            await self._until_ended(self._is_to_end.wait(), serving)
            polling.cancel()
            await grpc.set_ready(False)
            await self._drain()
        finally:
            await self.catalogue.close()  # whoever still waits is told so by the engines
            self._http.should_exit = self._metrics.should_exit = True
            await grpc.stop()
            await serving
            self._extensions.close()
            if self._log is not None:
                self._log.close()

    def _answering(self, app: ASGIApp) -> "_Uvicorn":
        return _Uvicorn(_config(app if self._log is None else HttpLog(app, self._log), self._options))

    async def _serve(self) -> None:
        """Until one of them ends."""
        places = [(self._http, self._socket)]
        places += [] if self._metrics_socket is None else [(self._metrics, self._metrics_socket)]
        await asyncio.gather(*(server.serve([place]) for server, place in places))

    async def _poll(self) -> None:
        """Models that were given as folders do not change."""
        if self._options.poll_seconds is not None:
            places, seconds = self._options.repositories, self._options.poll_seconds
            await poll(places, seconds, self._watch, self.catalogue.load, self.catalogue.forget)

    async def _load(self, grpc: GrpcServer, announce: Callable[[str], None]) -> None:
        options = self._options
        if options.poll_seconds is not None:
            self._watch.begin(await asyncio.to_thread(look_at, options.repositories))
        nothing_yet = () if options.clients_change_models and not options.models else None
        chosen = nothing_yet if options.load is None else options.load
        await self.catalogue.load_all(None if chosen is not None and "*" in chosen else chosen)
        failed = [line for line in self.catalogue.index() if line.state == "UNAVAILABLE"]
        if failed and options.fail_if_a_model_fails:
            reasons = "\n".join(f"  {line.name}: {line.reason}" for line in failed)
            raise ServingError(f"{len(failed)} of the models cannot be loaded:\n{reasons}")
        await grpc.set_ready(self.catalogue.is_server_ready)
        announce(self._ready_line())

    def _ready_line(self) -> str:
        host = _in_url(self._options.host)
        found = [*self.catalogue.language_models(), *self.catalogue.embedding_models()]
        names = ", ".join(sorted(found)) or "no language model"
        scheme = "https" if self._options.tls.is_on else "http"
        places = f"{scheme}://{host}:{self.http_port} (KServe v2, OpenAI under /v1) and gRPC {host}:{self.grpc_port}"
        return f"ready: {names} at {places}"

    async def _until_ended(self, work: Any, serving: asyncio.Task[None]) -> None:
        """Until the work is done, or the server is told to end; a failure of the HTTP server is ours."""
        task, end = asyncio.ensure_future(work), asyncio.create_task(self._is_to_end.wait())
        try:
            await asyncio.wait({task, end, serving}, return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                raise ServingError("the HTTP server ended by itself; its log says why")
            if task.done():
                task.result()
        finally:
            for one in (task, end):
                one.cancel()
            await asyncio.gather(task, end, return_exceptions=True)

    async def _drain(self) -> None:
        running = self.catalogue.admission.num_running
        if running:
            log.info("ending: %d requests are still answered, for %g s at most", running, self._patience)
        draining = asyncio.create_task(self.catalogue.admission.drain(self._patience))
        self._is_to_end.clear()
        again = asyncio.create_task(self._is_to_end.wait())  # a second signal: now
        await asyncio.wait({draining, again}, return_when=asyncio.FIRST_COMPLETED)
        for one in (draining, again):
            one.cancel()
        left = self.catalogue.admission.num_running
        if left:
            log.warning("ending: %d requests were cut off", left)

    @property
    def _patience(self) -> float:
        return self._options.exit_timeout_seconds

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for one in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(RuntimeError, ValueError):  # not in the main thread: its owner ends us
                loop.add_signal_handler(one, self.end)


def _extensions(options: ServeOptions) -> Extensions:
    return Extensions(
        SharedMemory(options.client_shared_memory),
        Tracing(options.trace),
        LogSettings(options.log),
        options.client_files,
    )


class _Uvicorn(uvicorn.Server):
    """Ends when we say so."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _config(app: ASGIApp, options: ServeOptions) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        **options.tls.of_http(),
        log_config=None,
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=1,  # our own drain comes before
    )


def _http_socket(options: ServeOptions) -> socket.socket:
    check_free(options.host, options.grpc_port, "--grpc-port")
    return listen(options.host, options.http_port, "--http-port")


@contextlib.contextmanager
def _metrics_socket(options: ServeOptions) -> Iterator[socket.socket | None]:
    """None where it has no port, or not the one that nobody has asked for."""
    if not options.has_metrics_port:
        yield None
        return
    port = _METRICS_PORT if options.metrics_port is None else options.metrics_port
    try:
        found = listen(options.host, port, "--metrics-port")
    except ConfigError as problem:
        if options.metrics_port is not None:
            raise
        log.warning("no port for the metrics alone, they are at /metrics: %s", problem)
        yield None
        return
    with contextlib.closing(found):
        yield found


def _address(options: ServeOptions) -> str:
    return f"{_in_url(options.host)}:{options.grpc_port}"


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


@contextlib.contextmanager
def _repositories(options: ServeOptions) -> Iterator[list[Path]]:
    """Those given; and models that were given as folders are deployed into one that lives as long as the server."""
    if not options.models:
        yield list(options.repositories)
        return
    with tempfile.TemporaryDirectory(prefix="hanbit-serve-") as folder:
        for name, model in options.models.items():
            deploy(folder_of(model), name, folder, options.adapters)
        yield [Path(folder), *options.repositories]


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # not on Windows
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()

"""A whole server in a thread of this process, over a repository of tiny random models, for as long as a block lasts."""

import asyncio
import copy
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from hanbit.server.options import ServeOptions
from hanbit.server.ports import listen
from hanbit.server.run import Server
from tests.engine.folders import VOCABULARY, write_tokenizer
from tests.models.shapes import CONFIGS, shake

CONTEXT = 16384  # room for an answer that is still being made when its client leaves


def write_long_folder(path: Path) -> Path:
    """A model with a long context."""
    config = copy.deepcopy(CONFIGS["llama"])
    config.vocab_size, config.max_position_embeddings = VOCABULARY, CONTEXT
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    shake(model)
    model.save_pretrained(path)
    write_tokenizer(path)
    return path


class Served:
    """`http`, `grpc`: host:port."""

    def __init__(self, server: Server, grpc_port: int, ready_line: str) -> None:
        self.server, self.catalogue = server, server.catalogue
        self.http = f"127.0.0.1:{server.http_port}"
        self.grpc = f"127.0.0.1:{grpc_port}"
        self.metrics = f"127.0.0.1:{server.metrics_port}"
        self.ready_line = ready_line

    @property
    def url(self) -> str:
        return f"http://{self.http}"

    def running(self) -> int:
        """Answers being made or waiting, over all engines."""
        services = {model.service for model in self.catalogue.language_models().values()}
        return sum(service.running + service.waiting for service in services)

    def wait_until_idle(self, seconds: float = 10) -> None:
        deadline = time.monotonic() + seconds
        while self.running():
            assert time.monotonic() < deadline, f"{self.running()} answers are still being made"
            time.sleep(0.01)


@contextmanager
def serving(repository: Path, **options: Any) -> Iterator[Served]:
    chosen = ServeOptions(repositories=(repository,), http_port=0, grpc_port=0, **options)
    lines: list[str] = []
    is_ready = threading.Event()
    found: list[tuple[Server, asyncio.AbstractEventLoop]] = []

    def announce(line: str) -> None:
        lines.append(line)
        is_ready.set()

    def run() -> None:
        with (
            listen("127.0.0.1", 0, "--http-port") as http,
            listen("127.0.0.1", 0, "--metrics-port") as metrics,
            asyncio.Runner() as runner,
        ):
            server = Server(chosen, [repository], http, metrics)
            found.append((server, runner.get_loop()))
            runner.run(server.run(announce))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while not is_ready.wait(0.05):
        assert thread.is_alive(), "the server ended before it was ready"
    server, loop = found[0]
    yield Served(server, server.grpc_port, lines[0])
    loop.call_soon_threadsafe(server.end)
    thread.join(30)
    assert not thread.is_alive()

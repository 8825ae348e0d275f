"""What the server adds to the engine: time to the first streamed token over HTTP beside the engine's own, in turns.

The server is a process of its own, as users run it; the engine is asked here, on the same folder. Both read the same
prompt of the same length from an idle state, greedily.
"""

import asyncio
import http.client
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from hanbit.common.errors import LaunchError
from hanbit.engine.llm import LLM
from hanbit.engine.sampling_params import SamplingParams
from hanbit.engine.service import Service
from hanbit.repository.deploy import deploy

ENGINE = "engine"
_MODEL = "bench"
_ANSWER_TOKENS = 4  # the first is measured; the stream is read to its end
_WARM_UP = 2


@dataclass
class Contestant:
    """`seconds`: to the first token, of each round."""

    name: str
    first_token: Callable[[str], Awaitable[float]]
    seconds: list[float] = field(default_factory=list)


def measure(model: Path, prompt_tokens: int = 32, rounds: int = 15) -> list[Contestant]:
    """The engine first. Raises LaunchError if the server does not start, ModelError on a wrong folder."""
    service = Service(LLM(model, enable_prefix_caching=False))  # else the prompt is read in the first round only
    try:
        prompt = _prompt(service.llm, prompt_tokens)
        with _server(model) as address:
            contestants = [
                Contestant(ENGINE, lambda prompt: _from_engine(service, prompt)),
                Contestant("KServe v2", lambda prompt: _from_http(address, *_generate_stream(prompt))),
                Contestant("OpenAI", lambda prompt: _from_http(address, *_completions(prompt))),
            ]
            asyncio.run(_take_turns(contestants, prompt, rounds))
    finally:
        service.close()
    return contestants


def table(contestants: list[Contestant]) -> list[dict[str, float | str]]:
    """Milliseconds: median to the first token, and what each adds to the engine of the same round."""
    engine = contestants[0].seconds
    rows: list[dict[str, float | str]] = []
    for one in contestants:
        added = sorted(1000 * (theirs - ours) for theirs, ours in zip(one.seconds, engine, strict=True))
        first = 1000 * statistics.median(one.seconds)
        rows.append(
            {
                "name": one.name,
                "first_token_milliseconds": round(first, 2),
                "added_milliseconds": round(statistics.median(added), 2),
                "lowest": round(added[0], 2),
                "highest": round(added[-1], 2),
            }
        )
    return rows


async def _take_turns(contestants: list[Contestant], prompt: str, rounds: int) -> None:
    for turn in range(-_WARM_UP, rounds):
        for one in contestants if turn % 2 == 0 else contestants[::-1]:
            seconds = await one.first_token(prompt)
            if turn >= 0:
                one.seconds.append(seconds)


async def _from_engine(service: Service, prompt: str) -> float:
    began = time.perf_counter()
    async with aclosing(service.stream(prompt, SamplingParams(temperature=0, max_tokens=_ANSWER_TOKENS))) as pieces:
        await anext(pieces)
        seconds = time.perf_counter() - began
        async for _ in pieces:
            pass
    return seconds


async def _from_http(address: str, path: str, body: dict[str, object]) -> float:
    """Over a connection of its own, opened before the clock starts, as clients keep theirs."""
    connection = http.client.HTTPConnection(address, timeout=300)
    connection.connect()
    content = json.dumps(body).encode()
    began = time.perf_counter()
    connection.request("POST", path, content)
    response = connection.getresponse()
    line = response.readline()
    seconds = time.perf_counter() - began
    rest = response.read()
    connection.close()
    if not line.startswith(b"data: "):
        raise LaunchError(f"{path} gave no stream: {(line + rest)[:300]!r}")
    return seconds


def _generate_stream(prompt: str) -> tuple[str, dict[str, object]]:
    body = {"text_input": prompt, "temperature": 0, "max_tokens": _ANSWER_TOKENS}
    return f"/v2/models/{_MODEL}/generate_stream", body


def _completions(prompt: str) -> tuple[str, dict[str, object]]:
    body = {"model": _MODEL, "prompt": prompt, "temperature": 0, "max_tokens": _ANSWER_TOKENS, "stream": True}
    return "/v1/completions", body


def _prompt(llm: LLM, num_tokens: int) -> str:
    """A text of about so many tokens."""
    text = "the"
    while len(llm.tokenizer.encode(text)) < num_tokens:
        text += " the"
    return text


@contextmanager
def _server(model: Path) -> Iterator[str]:
    """host:port of `hanbit serve`; texts go to the model as they are."""
    with TemporaryDirectory(prefix="hanbit-bench-") as repository:
        deploy(model, _MODEL, repository, chat_template="none")
        arguments = [
            "--model-repository",
            repository,
            "--http-port",
            "0",
            "--grpc-port",
            "0",
            "--no-enable-prefix-caching",
        ]
        command = [sys.executable, "-m", "hanbit", "serve", *arguments]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if "http://" not in line:
                raise LaunchError("hanbit serve did not become ready; it says why above")
            yield line.split("http://")[1].split()[0]
        finally:
            process.terminate()
            process.wait()

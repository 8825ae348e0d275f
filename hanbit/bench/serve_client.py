"""One client of `hanbit bench serve --peer triton`: a process that asks whichever server it is told to.

Reads lines {"url", "protocol", "model", "requests", "input", "size"}, asks one request after another through
tritonclient and prints {"latencies": [seconds, ...]}. `input`: TEXT, a short one that comes back reversed, or BLOCK,
`size` bytes that come back as they are; every answer is looked at.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

_WARM_UP = 3


def main() -> None:
    clients: dict[tuple[str, str], Any] = {}
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        key = asked["protocol"], asked["url"]
        if key not in clients:
            clients[key] = _module(key[0]).InferenceServerClient(key[1])
        ask = _asking(_module(key[0]), clients[key], asked)
        for _ in range(_WARM_UP):
            ask(-1)
        print(json.dumps({"latencies": [_timed(ask, number) for number in range(asked["requests"])]}), flush=True)


def _module(protocol: str) -> Any:
    if protocol == "http":
        import tritonclient.http as module
    else:
        import tritonclient.grpc as module
    return module


def _timed(ask: Callable[[int], None], number: int) -> float:
    began = time.perf_counter()
    ask(number)
    return time.perf_counter() - began


def _asking(module: Any, client: Any, asked: dict[str, Any]) -> Callable[[int], None]:
    return _ask_text(module, client, asked) if asked["input"] == "TEXT" else _ask_block(module, client, asked)


def _ask_text(module: Any, client: Any, asked: dict[str, Any]) -> Callable[[int], None]:
    def ask(number: int) -> None:
        text = f"request {number} of a client".encode()
        given = module.InferInput("TEXT", [1], "BYTES")
        given.set_data_from_numpy(np.array([text], dtype=np.object_))
        found = client.infer(asked["model"], [given]).as_numpy("BACK")[0]
        assert found == text[::-1], found

    return ask


def _ask_block(module: Any, client: Any, asked: dict[str, Any]) -> Callable[[int], None]:
    block = np.arange(asked["size"] // 4, dtype=np.float32)
    given = module.InferInput("BLOCK", [len(block)], "FP32")
    given.set_data_from_numpy(block)

    def ask(number: int) -> None:
        found = client.infer(asked["model"], [given]).as_numpy("SAME")
        assert found.shape == block.shape
        assert found[-1] == block[-1]

    return ask


if __name__ == "__main__":
    main()

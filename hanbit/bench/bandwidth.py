"""`hanbit bench bandwidth`: which share of the memory's read bandwidth decoding reaches.

A token reads all weights once and the keys and values before it; nothing can be faster than reading them. The same
threads read memory of the weights' size between the answers, so that the machine's mood meets both. The whole of a
token's time counts, Python and the choice of the token included.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch

from hanbit.bench.answers import greedy, seconds_after_first, sequence_of
from hanbit.bench.topics import topics
from hanbit.common.errors import ConfigError
from hanbit.engine.llm import LLM
from hanbit.engine.native import weight_bytes
from hanbit.engine.runner import cache_shape_of
from hanbit.kernels.library import Native, native, why_not

Say = Callable[[str], None]
_WARM_UP = 1
_READ_BYTES = 64 << 20, 1 << 30  # at least, far above the caches of what this bench is for; and at most
_READS = 3  # the fastest counts: the question is what the memory can do


@dataclass(frozen=True)
class Plan:
    model: Path
    prompt_tokens: int = 128
    new_tokens: int = 128
    rounds: int = 7
    threads: int | None = None


@dataclass
class Measured:
    """`token_bytes` of a token in the middle of an answer. Seconds a token, bytes read a second; one each a round."""

    token_bytes: int
    seconds: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)

    def facts(self) -> dict[str, float]:
        shares = [100 * self.token_bytes / pair[0] / pair[1] for pair in zip(self.seconds, self.rates, strict=True)]
        token = statistics.median(self.seconds)
        return {
            "token_milliseconds": round(1000 * token, 3),
            "token_megabytes": round(self.token_bytes / 1e6, 3),
            "decode_gigabytes_per_second": round(self.token_bytes / token / 1e9, 2),
            "read_gigabytes_per_second": round(statistics.median(self.rates) / 1e9, 2),
            "percent": round(statistics.median(shares), 1),
            "lowest": round(min(shares), 1),
            "highest": round(max(shares), 1),
        }


def measure(plan: Plan, say: Say) -> Measured:
    """Raises ConfigError without native kernels, GenerationError if prompt and answer are longer than the context."""
    kernels = native()
    if kernels is None:
        raise ConfigError(f"native kernels read the memory, and they are {why_not()}")
    if plan.new_tokens < 2:
        raise ConfigError(f"--new-tokens {plan.new_tokens} must be at least 2: the first one is the prompt's")
    if plan.rounds < 1:
        raise ConfigError(f"--rounds {plan.rounds} must be at least 1")
    if plan.threads is not None:
        torch.set_num_threads(plan.threads)
    llm = LLM(plan.model, device="cpu")
    weights = weight_bytes(llm.model)
    if weights == 0:
        raise ConfigError(f"{plan.model} is not computed by native kernels, so what it reads is not known")
    middle = plan.prompt_tokens + plan.new_tokens // 2
    found = Measured(weights + middle * cache_shape_of(llm.model, llm.kv_cache_dtype).token_bytes)
    memory = np.empty(min(max(weights, _READ_BYTES[0]), _READ_BYTES[1]) // 8, np.uint64)
    kernels.library.hanbit_use_huge_pages(memory.ctypes.data, memory.nbytes)
    memory.fill(1)
    text = cycle(llm.tokenizer.encode(topics()))
    for round in range(_WARM_UP + plan.rounds):
        before = _read_rate(kernels, memory)
        seconds = _seconds_per_token(llm, list(islice(text, plan.prompt_tokens)), plan.new_tokens)
        if round < _WARM_UP:
            continue
        found.seconds.append(seconds)
        found.rates.append(max(before, _read_rate(kernels, memory)))
        say(f"round {len(found.rates)} of {plan.rounds}: {1000 * seconds:.2f} ms, {found.rates[-1] / 1e9:.1f} GB/s")
    return found


def _read_rate(kernels: Native, memory: np.ndarray) -> float:
    """Bytes a second."""
    seconds = []
    for _ in range(_READS):
        began = time.perf_counter()
        kernels.library.hanbit_read(memory.ctypes.data, len(memory), torch.get_num_threads())
        seconds.append(time.perf_counter() - began)
    return float(memory.nbytes / min(seconds))


def _seconds_per_token(llm: LLM, prompt: list[int], new_tokens: int) -> float:
    return seconds_after_first(llm.batch(1), sequence_of(llm, prompt, greedy(new_tokens))) / (new_tokens - 1)

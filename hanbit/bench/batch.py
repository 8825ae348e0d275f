"""`hanbit bench batch`: tokens per second of answers that grow together, and the first token behind a shared beginning.

The engine alone, greedily, in one process; with a peer, llama-batched-bench takes turns with it on the same GGUF file.
Prompts differ from round to round, so that none is found from the round before. "growing" is from the last first token
to the end, when all sequences grow; "in all" is prompts and answers over all of the time.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain, cycle, islice
from pathlib import Path

import torch

from hanbit.bench.answers import greedy, sequence_of, step
from hanbit.bench.llama_cpp import BATCHED, LlamaCpp
from hanbit.bench.topics import topics
from hanbit.engine.llm import LLM

Say = Callable[[str], None]
_OWN_TOKENS = 16  # of each prompt behind the shared beginning
_WORKS = {"growing": "speed_tg", "in all": "speed"}  # ours, and what llama-batched-bench calls it


@dataclass(frozen=True)
class Plan:
    """`sequences`: how many are answered together, each of these in turn. Of `rounds` no further one is begun that
    would end after `seconds`, going by the longest yet. `file`: the GGUF file that `model` was made of, for a peer."""

    model: Path
    sequences: tuple[int, ...] = (1, 8, 32)
    prompt_tokens: int = 128
    new_tokens: int = 128
    prefix_tokens: int = 1000
    requests: int = 16
    rounds: int = 5
    seconds: float = 180.0
    threads: int | None = None
    file: Path | None = None
    peer: LlamaCpp | None = None


@dataclass
class Measured:
    what: str
    unit: str
    values: list[float] = field(default_factory=list)  # one a round
    theirs: list[float] = field(default_factory=list)  # the peer's


def measure(plan: Plan, say: Say) -> list[Measured]:
    """Rates by number of sequences, then the first token of the 2nd and later requests over the 1st, in percent.

    Raises ConfigError if the peer's program is missing, GenerationError if a prompt and its answer are longer than the
    model's context.
    """
    began = time.perf_counter()
    if plan.peer is not None:
        plan.peer.require(BATCHED)
    if plan.threads is not None:
        torch.set_num_threads(plan.threads)
    llm = LLM(plan.model, device="cpu") if plan.peer else LLM(plan.model)
    text = _text(llm)
    rates = {
        (count, work): Measured(f"{count} of {plan.prompt_tokens} + {plan.new_tokens} tokens, {work}", "tok/s")
        for count in plan.sequences
        for work in _WORKS
    }
    shared = Measured(f"first token, {plan.requests} on a beginning of {plan.prefix_tokens}", "% of the first's")
    longest = 0.0
    for round in range(plan.rounds):
        round_began = time.perf_counter()
        if round and round_began - began + longest > plan.seconds:
            say(f"{plan.seconds:.0f} s are up after {round} rounds of {plan.rounds}")
            break
        for count in plan.sequences:
            _measure_rates(plan, llm, text, count, rates, is_first=round % 2 == 0)
            found = rates[count, "growing"]
            beside = f", llama.cpp {found.theirs[-1]:.1f}" if found.theirs else ""
            say(f"round {round + 1} of {plan.rounds}: {found.what} {found.values[-1]:.1f} tok/s{beside}")
        shared.values.append(_share(llm, list(islice(text, plan.prefix_tokens)), text, plan.requests))
        longest = max(longest, time.perf_counter() - round_began)
    return [*rates.values(), shared]


def _measure_rates(
    plan: Plan, llm: LLM, text: Iterator[int], count: int, rates: dict[tuple[int, str], Measured], is_first: bool
) -> None:
    """A turn of ours and one of the peer's, in either order."""
    for is_ours in (True, False) if is_first else (False, True):
        if is_ours:
            prompts = [list(islice(text, plan.prompt_tokens)) for _ in range(count)]
            for work, rate in zip(_WORKS, _rates(llm, prompts, plan.new_tokens), strict=True):
                rates[count, work].values.append(rate)
        elif plan.peer is not None and plan.file is not None:
            found = plan.peer.batched(plan.file, plan.prompt_tokens, plan.new_tokens, count)
            for work, theirs in _WORKS.items():
                rates[count, work].theirs.append(found[theirs])


def table(measured: list[Measured]) -> list[dict[str, float | str]]:
    """Median, lowest, highest; beside a peer its median, and how many times faster hanbit was."""
    return [{"what": one.what, "unit": one.unit, **_spread("", one.values), **_beside(one)} for one in measured]


def _beside(one: Measured) -> dict[str, float]:
    if not one.theirs:
        return {}
    faster = [ours / theirs for ours, theirs in zip(one.values, one.theirs, strict=True)]
    return {"peer_median": round(statistics.median(one.theirs), 2), **_spread("hanbit_over_it_", faster)}


def _spread(prefix: str, values: list[float]) -> dict[str, float]:
    return {
        f"{prefix}median": round(statistics.median(values), 2),
        f"{prefix}lowest": round(min(values), 2),
        f"{prefix}highest": round(max(values), 2),
    }


def _text(llm: LLM) -> Iterator[int]:
    return chain.from_iterable(cycle([llm.tokenizer.encode(topics())]))


def _rates(llm: LLM, prompts: list[list[int]], new_tokens: int) -> tuple[float, float]:
    """Tokens per second of all together: while all of them grow, and of prompts and answers over all of the time."""
    batch = llm.batch(len(prompts))
    start = time.perf_counter()
    growing = [sequence_of(llm, prompt, greedy(new_tokens)) for prompt in prompts]
    for sequence in growing:
        batch.add(sequence)
    while not all(sequence.answer for sequence in growing):
        step(batch)
    began, before = time.perf_counter(), sum(len(sequence.answer) for sequence in growing)
    while all(sequence.finish_reason is None for sequence in growing):
        step(batch)
    rate = (sum(len(sequence.answer) for sequence in growing) - before) / (time.perf_counter() - began)
    while any(sequence.finish_reason is None for sequence in growing):
        step(batch)
    tokens = sum(len(sequence.answer) + len(prompt) for sequence, prompt in zip(growing, prompts, strict=True))
    return rate, tokens / (time.perf_counter() - start)


def _share(llm: LLM, prefix: list[int], text: Iterator[int], requests: int) -> float:
    """Percent: the median time to the first token of the later requests over that of the first, one after another."""
    batch, seconds = llm.batch(), []
    for _ in range(requests):
        began = time.perf_counter()
        sequence = sequence_of(llm, [*prefix, *islice(text, _OWN_TOKENS)], greedy(2))
        batch.add(sequence)
        while not sequence.answer:
            step(batch)
        seconds.append(time.perf_counter() - began)
        batch.remove(sequence)
    return 100 * statistics.median(seconds[1:]) / seconds[0]

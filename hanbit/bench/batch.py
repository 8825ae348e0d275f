"""`hanbit bench batch`: tokens per second of answers that grow together, and the first token behind a shared beginning.

The engine alone, greedily, in one process. Prompts differ from round to round, so that none is found from the round
before. Rates are of decoding: from the last first token to the end, when all sequences grow.
"""

import pydoc_data.topics
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, cycle, islice
from pathlib import Path

from hanbit.common.errors import GenerationError
from hanbit.engine.batch import Batch
from hanbit.engine.llm import LLM
from hanbit.engine.sampling_params import SamplingParams
from hanbit.engine.sequence import Sequence

_OWN_TOKENS = 16  # of each prompt behind the shared beginning


@dataclass
class Measured:
    what: str
    unit: str
    values: list[float] = field(default_factory=list)  # one a round


def measure(
    model: Path,
    sequences: list[int],
    prompt_tokens: int = 128,
    new_tokens: int = 128,
    prefix_tokens: int = 1000,
    requests: int = 16,
    rounds: int = 5,
) -> list[Measured]:
    """Rates by number of sequences, then the first token of the 2nd and later requests over the 1st, in percent.

    Raises GenerationError if a prompt and its answer are longer than the model's context.
    """
    llm = LLM(model)
    text = _text(llm)
    rates = [Measured(f"{count} together, {prompt_tokens} + {new_tokens} tokens", "tok/s") for count in sequences]
    shared = Measured(f"first token, {requests} on a beginning of {prefix_tokens}", "% of the first's")
    for _ in range(rounds):
        for count, rate in zip(sequences, rates, strict=True):
            rate.values.append(_rate(llm, [list(islice(text, prompt_tokens)) for _ in range(count)], new_tokens))
        shared.values.append(_share(llm, list(islice(text, prefix_tokens)), text, requests))
    return [*rates, shared]


def table(measured: list[Measured]) -> list[dict[str, float | str]]:
    return [
        {
            "what": one.what,
            "unit": one.unit,
            "median": round(statistics.median(one.values), 2),
            "lowest": round(min(one.values), 2),
            "highest": round(max(one.values), 2),
        }
        for one in measured
    ]


def _text(llm: LLM) -> Iterator[int]:
    """Python's own documentation, which is on every machine."""
    return chain.from_iterable(cycle([llm.tokenizer.encode("\n".join(pydoc_data.topics.topics.values()))]))


def _rate(llm: LLM, prompts: list[list[int]], new_tokens: int) -> float:
    """Tokens per second of all together, while all of them grow."""
    batch = llm.batch(len(prompts))
    growing = [_added(llm, batch, prompt, new_tokens) for prompt in prompts]
    while not all(sequence.answer for sequence in growing):
        _step(batch)
    began, before = time.perf_counter(), sum(len(sequence.answer) for sequence in growing)
    while all(sequence.finish_reason is None for sequence in growing):
        _step(batch)
    seconds = time.perf_counter() - began
    return (sum(len(sequence.answer) for sequence in growing) - before) / seconds


def _share(llm: LLM, prefix: list[int], text: Iterator[int], requests: int) -> float:
    """Percent: the median time to the first token of the later requests over that of the first, one after another."""
    batch, seconds = llm.batch(), []
    for _ in range(requests):
        began = time.perf_counter()
        sequence = _added(llm, batch, [*prefix, *islice(text, _OWN_TOKENS)], 2)
        while not sequence.answer:
            _step(batch)
        seconds.append(time.perf_counter() - began)
        batch.remove(sequence)
    return 100 * statistics.median(seconds[1:]) / seconds[0]


def _added(llm: LLM, batch: Batch, prompt: list[int], new_tokens: int) -> Sequence:
    sequence = llm.sequence(prompt, SamplingParams(temperature=0, max_tokens=new_tokens, ignore_eos=True))
    batch.add(sequence)
    return sequence


def _step(batch: Batch) -> None:
    for _, event in batch.step():
        if isinstance(event, GenerationError):
            raise event

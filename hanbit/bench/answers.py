"""Answers of a set length, made step by step and timed: what the benches of the engine have in common."""

import time
from collections.abc import Sequence as Items

from hanbit.common.errors import GenerationError
from hanbit.engine.batch import Batch
from hanbit.engine.llm import LLM
from hanbit.engine.sampling_params import SamplingParams
from hanbit.engine.sequence import Sequence


def greedy(new_tokens: int) -> SamplingParams:
    return SamplingParams(temperature=0, max_tokens=new_tokens, ignore_eos=True)


def sequence_of(llm: LLM, prompt: Items[int], params: SamplingParams) -> Sequence:
    """Raises GenerationError where the context would cut the answer short: times are divided by its length."""
    sequence = llm.sequence(prompt, params)
    if sequence.max_tokens != params.max_tokens:
        raise GenerationError(
            f"a prompt of {len(prompt)} and an answer of {params.max_tokens} tokens are longer than the context of "
            f"{llm.context}. Ask for fewer"
        )
    return sequence


def step(batch: Batch) -> None:
    """Raises what went wrong in it."""
    for _, event in batch.step():
        if isinstance(event, GenerationError):
            raise event


def seconds_after_first(batch: Batch, sequence: Sequence) -> float:
    """Of an answer alone in a batch: from its first token to its last."""
    batch.add(sequence)
    while not sequence.answer:
        step(batch)
    began = time.perf_counter()
    while not batch.is_empty:
        step(batch)
    return time.perf_counter() - began

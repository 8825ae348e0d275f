"""Several answers to one prompt, and which of them are given: `n` of `best_of`. No torch."""

from collections.abc import Sequence
from dataclasses import replace

from hanbit.engine.output import Logprob, Output
from hanbit.engine.sampling_params import SamplingParams
from hanbit.engine.sequence import Sequence as Answer

_LARGEST_SEED = 2**63


def each(params: SamplingParams) -> list[SamplingParams]:
    """What is asked of each of the answers that are made: one of n=1.

    With a seed they differ from one another, and are the same whenever they are asked for; the first is the one of
    n=1. Where the best are to be found, the likelihood of every token is told.
    """
    made = params.best_of or params.n
    if made == 1 or params.num_beams > 1:  # one search finds n answers
        return [params]
    one = replace(params, n=1, best_of=None)
    if made > params.n and params.logprobs is None:
        one = replace(one, logprobs=0)
    if params.seed is None:
        return [one] * made
    return [replace(one, seed=(params.seed + index) % _LARGEST_SEED) for index in range(made)]


def chosen(params: SamplingParams, answers: Sequence[Sequence[Logprob]]) -> list[int]:
    """Places of the answers that are given, by the likelihood of their tokens: all of them in their order, or the n
    best, the best first. Those are likeliest a token, as OpenAI has it; the model's own likelihood, before sampling."""
    if params.n == len(answers):
        return list(range(len(answers)))
    means = [sum(one.logprob for one in told) / len(told) for told in answers]
    return sorted(range(len(answers)), key=lambda place: -means[place])[: params.n]


def given(params: SamplingParams, sequences: Sequence[Answer]) -> Output:
    """One prompt's answers, all of them over, as one output."""
    outputs = [sequence.output() for sequence in sequences]
    if params.num_beams > 1:
        return outputs[0]
    first, *others = [outputs[place] for place in chosen(params, [output.logprobs for output in outputs])]
    if params.logprobs is None:  # they were told for the choice
        first, *others = [replace(output, logprobs=()) for output in (first, *others)]
    return replace(first, others=tuple(others)) if others else first

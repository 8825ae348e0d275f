"""From logits to one token. Pure: the random number is passed in, so the same number gives the same token.

Filters act in the order of transformers (temperature, top-k, top-p, min-p) and keep the same tokens
(tests/engine/test_sampling.py). Tokens equal to the k-th in likelihood are the one difference: exactly k are kept here.
"""

from collections.abc import Collection, Sequence

import numpy as np
import torch

from hanbit.engine.native import largest
from hanbit.engine.output import Logprob
from hanbit.engine.sampling_params import SamplingParams

# Sorting 49,152 probabilities takes 3 ms, finding the largest 1,024 a tenth of it; nearly always they suffice.
_USUALLY_ENOUGH = 1024
_ROWS_AT_ONCE = 64  # of a prompt's logits, whose logarithms are as large


def choose(logits: torch.Tensor, params: SamplingParams, uniform: float, top_p: float | None = None) -> int:
    """A token id for logits [vocabulary]; `uniform` in 0..1 decides between the candidates. `top_p`: where it is not
    that of the parameters any more."""
    if params.is_greedy:
        place = largest(logits)
        return int(logits.argmax()) if place is None else place
    ids, probabilities = candidates(logits.float().cpu(), params, top_p)
    sums = probabilities.double().cumsum(0)
    # right=True never lands on a candidate of probability 0
    place = int(torch.searchsorted(sums, uniform * sums[-1], right=True))
    return int(ids[min(place, len(ids) - 1)])


def adjusted(
    logits: torch.Tensor,
    params: SamplingParams,
    answer: Sequence[int],
    forbidden: Collection[int],
    prompt: Sequence[int] = (),
    allowed: np.ndarray | None = None,
) -> torch.Tensor:
    """logits [vocabulary] with penalties for what prompt and answer have, biases, and nothing for the forbidden ids nor
    for those that are not `allowed`, bool [vocabulary].

    The same tensor where nothing is asked for, a new one otherwise.
    """
    repeats = params.repetition_penalty != 1 and (prompt or answer)
    if not (allowed is not None or params.logit_bias or forbidden or repeats or (params.has_penalties and answer)):
        return logits
    logits = logits.clone()
    if repeats:
        ids = torch.tensor([*prompt, *answer], device=logits.device).unique()
        found = logits[ids]
        logits[ids] = torch.where(found < 0, found * params.repetition_penalty, found / params.repetition_penalty)
    if params.has_penalties and answer:
        ids, counts = torch.tensor(answer, device=logits.device).unique(return_counts=True)
        logits[ids] -= params.presence_penalty + params.frequency_penalty * counts
    if params.logit_bias:
        ids = torch.tensor(list(params.logit_bias), device=logits.device)
        logits[ids] += torch.tensor(list(params.logit_bias.values()), device=logits.device, dtype=logits.dtype)
    logits[list(forbidden)] = float("-inf")
    if allowed is not None:
        logits[torch.from_numpy(~allowed).to(logits.device)] = float("-inf")
    return logits


def logprob_of(logits: torch.Tensor, token: int, count: int) -> Logprob:
    """The token's log-probability and the `count` likeliest ones by logits [vocabulary]."""
    logprobs = logits.float().log_softmax(0)
    top = logprobs.topk(min(count, len(logprobs)))
    return Logprob(token, float(logprobs[token]), tuple(zip(top.indices.tolist(), top.values.tolist(), strict=True)))


def logprobs_of(logits: torch.Tensor, tokens: Sequence[int], count: int) -> list[Logprob]:
    """Of each of some tokens by its row of logits [tokens or more, vocabulary], as `logprob_of`."""
    found: list[Logprob] = []
    for start in range(0, len(tokens), _ROWS_AT_ONCE):
        chosen = list(tokens[start : start + _ROWS_AT_ONCE])
        logprobs = logits[start : start + len(chosen)].float().log_softmax(1)
        values, ids = logprobs.topk(min(count, logprobs.shape[1]))
        own = logprobs[range(len(chosen)), chosen]
        for token, logprob, top_ids, top in zip(chosen, own.tolist(), ids.tolist(), values.tolist(), strict=True):
            found.append(Logprob(token, logprob, tuple(zip(top_ids, top, strict=True))))
    return found


def candidates(
    logits: torch.Tensor, params: SamplingParams, top_p: float | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and probabilities (float32, summing to about 1) of the tokens that pass every filter, logits [vocabulary].

    The largest logit is taken off before the division: a temperature near 0 would overflow otherwise. One below what
    float32 holds is as the smallest that it does: nothing but the largest is left.
    """
    temperature = max(params.temperature, torch.finfo(torch.float32).tiny)
    top_p = params.top_p if top_p is None else top_p
    probabilities = ((logits - logits.max()) / temperature).softmax(0)
    ids = torch.arange(len(logits))
    mass = float(probabilities.sum(dtype=torch.float64))  # near 1; what top-p leaves out may be as small as its error
    if params.top_k > 0 or top_p < 1:
        probabilities, ids = _largest_first(probabilities, mass, params.top_k, top_p)
    if params.top_k > 0:
        probabilities = probabilities / probabilities.sum()
        mass = float(probabilities.sum(dtype=torch.float64))
    if top_p < 1:
        kept = _in_nucleus(probabilities, mass, top_p)
        probabilities, ids = probabilities[kept], ids[kept]
    if params.min_p > 0:
        kept = probabilities >= params.min_p * probabilities.max()
        probabilities, ids = probabilities[kept], ids[kept]
    return ids, probabilities / probabilities.sum()


def _largest_first(
    probabilities: torch.Tensor, mass: float, top_k: int, top_p: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest, or as many as top-p can ask for."""
    count = min(top_k or _USUALLY_ENOUGH, len(probabilities))
    values, ids = probabilities.topk(count)
    if top_k > 0 or mass - values.sum(dtype=torch.float64) <= 1 - top_p:
        return values, ids
    values, ids = probabilities.sort(descending=True)
    return values, ids


def _in_nucleus(probabilities: torch.Tensor, mass: float, top_p: float) -> torch.Tensor:
    """Which of the probabilities, largest first, reach top_p together; the one that crosses the line is the last in.

    Counted by what lies behind a token, in float64: 0.001 of the mass, cut by float32 sums of the 0.999 before, would
    end a few tokens early or late.
    """
    before = probabilities.cumsum(0, dtype=torch.float64) - probabilities
    kept = mass - before > 1 - top_p
    kept[0] = True
    return kept

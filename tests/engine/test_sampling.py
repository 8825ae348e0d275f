"""Filters keep transformers' tokens, and the choice between them is the plain one."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers.generation import logits_process

from hanbit.engine.sampling import adjusted, candidates, choose, logprob_of
from hanbit.engine.sampling_params import SamplingParams

SETTINGS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.3},
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": 10**6},
    {"top_p": 0.5},
    {"top_p": 0.999},
    {"top_p": 1e-6},
    {"min_p": 0.2},
    {"temperature": 1.7, "top_k": 40, "top_p": 0.8, "min_p": 0.05},
]


def logits_of(size: int, seed: int = 0, spread: float = 3.0) -> torch.Tensor:
    return spread * torch.randn(size, generator=torch.Generator().manual_seed(seed))


def theirs(logits: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    """Probabilities after transformers' own filters, in the order in which `generate` applies them."""
    scores = logits.unsqueeze(0)
    steps = [logits_process.TemperatureLogitsWarper(float(params.temperature))]
    if params.top_k:
        steps.append(logits_process.TopKLogitsWarper(params.top_k))
    if params.top_p < 1:
        steps.append(logits_process.TopPLogitsWarper(params.top_p))
    if params.min_p:
        steps.append(logits_process.MinPLogitsWarper(params.min_p))
    for step in steps:
        scores = step(torch.empty(1, 0, dtype=torch.long), scores)
    return scores[0].softmax(0)


@pytest.mark.parametrize("size", [50, 5000])
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_candidates_and_probabilities_equal_those_of_transformers(size: int, setting: dict[str, Any]) -> None:
    params = SamplingParams(**setting)
    for seed in range(5):
        logits = logits_of(size, seed)
        ids, probabilities = candidates(logits, params)
        ours = torch.zeros(size).scatter(0, ids, probabilities)
        torch.testing.assert_close(ours, theirs(logits, params), rtol=1e-4, atol=1e-7)


def test_a_nucleus_of_more_than_the_usual_tokens_is_whole() -> None:
    logits = logits_of(6000, spread=0.1)
    params = SamplingParams(top_p=0.9)
    ids, _ = candidates(logits, params)
    assert len(ids) > 5000
    assert set(ids.tolist()) == set(theirs(logits, params).nonzero().flatten().tolist())


def by_fastertransformer(tokens: list[int], top_p: float, decay: float, least: float, resets: list[int]) -> list[float]:
    """Its kernel `computeToppDecay`, of one sequence: top_p of each token, and of the one after the last."""
    found = [top_p]
    for token in tokens:
        found.append(top_p if token in resets else max(found[-1] * decay, least))
    return found


def test_the_nucleus_shrinks_and_comes_back_as_fastertransformers_does() -> None:
    params = SamplingParams(top_p=0.9, top_p_decay=0.5, top_p_min=0.2, top_p_reset_ids=[7, 3])
    tokens, top_p = [1, 2, 7, 4, 5, 6, 3], 0.9
    shrunk = [top_p]
    for token in tokens:
        shrunk.append(top_p := params.next_top_p(top_p, token))
    assert shrunk == by_fastertransformer(tokens, 0.9, 0.5, 0.2, [7, 3])
    assert shrunk[3] == shrunk[-1] == 0.9
    assert min(shrunk) == 0.2
    for top_p in shrunk:
        logits = logits_of(50)
        for one, other in zip(
            candidates(logits, params, top_p), candidates(logits, SamplingParams(top_p=top_p)), strict=True
        ):
            assert torch.equal(one, other)


def test_the_choice_is_where_a_plain_loop_over_the_candidates_arrives() -> None:
    params = SamplingParams(top_k=20, temperature=1.3)
    logits = logits_of(300)
    ids, probabilities = candidates(logits, params)
    for step in range(200):
        uniform = (step + 0.5) / 200
        reached, wanted = 0.0, None
        for id, probability in zip(ids.tolist(), probabilities.tolist(), strict=True):
            reached += probability
            if wanted is None and reached > uniform:
                wanted = id
        assert choose(logits, params, uniform) == wanted


def test_choices_over_even_numbers_come_as_often_as_they_are_probable() -> None:
    logits = logits_of(12, spread=1.0)
    params = SamplingParams(temperature=0.8)
    counts = torch.zeros(12)
    for step in range(2000):
        counts[choose(logits, params, (step + 0.5) / 2000)] += 1
    torch.testing.assert_close(counts / 2000, (logits / 0.8).softmax(0), rtol=0, atol=1 / 2000)


def test_temperature_0_takes_the_likeliest_whatever_else_is_set() -> None:
    logits = logits_of(100)
    params = SamplingParams(temperature=0, top_k=5, top_p=0.5, min_p=0.1)
    assert {choose(logits, params, uniform) for uniform in (0.0, 0.5, 0.999)} == {int(logits.argmax())}


@pytest.mark.parametrize("temperature", [1e-30, 1e-44, 1e-46, 1e-300, 5e-324])
@pytest.mark.parametrize("filters", [{}, {"min_p": 0.1}, {"top_p": 0.5}, {"top_k": 3}])
def test_a_temperature_near_0_takes_the_likeliest(temperature: float, filters: dict[str, Any]) -> None:
    logits = 100 * logits_of(100)
    params = SamplingParams(temperature=temperature, **filters)
    assert {choose(logits, params, uniform) for uniform in (0.0, 0.5, 0.999)} == {int(logits.argmax())}


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-53])
def test_a_token_of_probability_0_is_never_chosen(uniform: float) -> None:
    logits = torch.tensor([-torch.inf, 1.0, -torch.inf, 1.0, -torch.inf])
    assert choose(logits, SamplingParams(), uniform) in (1, 3)


def test_penalties_follow_the_formula_of_openai() -> None:
    logits, answer = logits_of(30), [4, 7, 4, 4, 29]
    params = SamplingParams(presence_penalty=0.5, frequency_penalty=-0.25)
    wanted = [float(logit) for logit in logits]
    for token in range(30):
        wanted[token] -= answer.count(token) * -0.25 + (answer.count(token) > 0) * 0.5
    before = logits.clone()
    torch.testing.assert_close(adjusted(logits, params, answer, ()), torch.tensor(wanted))
    assert torch.equal(logits, before)
    assert adjusted(logits, params, [], ()) is logits


def test_the_repetition_penalty_is_that_of_transformers() -> None:
    logits, prompt, answer = logits_of(30), [3, 3, 8], [4, 29, 4]
    wanted = logits_process.RepetitionPenaltyLogitsProcessor(1.3)(torch.tensor([prompt + answer]), logits.unsqueeze(0))
    before = logits.clone()
    params = SamplingParams(repetition_penalty=1.3)
    assert torch.equal(adjusted(logits, params, answer, (), prompt), wanted[0])
    assert torch.equal(logits, before)
    assert adjusted(logits, SamplingParams(), answer, (), prompt) is logits


def test_biases_and_forbidden_ends_are_those_of_transformers() -> None:
    logits, biases = logits_of(30), {3: 5.0, 28: -100.0, 9: 0.25}
    theirs = logits_process.SequenceBiasLogitsProcessor([[[id], bias] for id, bias in biases.items()])
    least = logits_process.MinNewTokensLengthLogitsProcessor(2, 4, [11, 5], device="cpu")
    tokens = torch.tensor([[1, 2, 20]])
    wanted = least(tokens, theirs(tokens, logits.unsqueeze(0)))[0]
    assert torch.equal(adjusted(logits, SamplingParams(logit_bias=biases), [20], frozenset({11, 5})), wanted)


def test_logprobs_are_the_logs_of_the_models_own_probabilities() -> None:
    logits = logits_of(50)
    wanted = F.softmax(logits.double(), dim=0).log()
    found = logprob_of(logits, 7, 3)
    assert found.token_id == 7
    assert found.logprob == pytest.approx(float(wanted[7]), abs=1e-5)
    assert [id for id, _ in found.top] == wanted.sort(descending=True).indices[:3].tolist()
    assert [value for _, value in found.top] == pytest.approx(
        wanted.sort(descending=True).values[:3].tolist(), abs=1e-5
    )
    assert logprob_of(logits, 7, 0).top == ()

"""Several answers to one prompt are those of their seeds, and the best of them is found by a plain sum."""

import pytest

from hanbit.common.errors import GenerationError
from hanbit.engine.choices import each
from hanbit.engine.llm import LLM
from hanbit.engine.sampling_params import SamplingParams

PROMPTS = ["The quick", "안녕하세요"]
SEEDED = SamplingParams(seed=7, max_tokens=9, temperature=0.9)


def params(**more: object) -> SamplingParams:
    return SamplingParams(**{"seed": 7, "max_tokens": 9, "temperature": 0.9, **more})  # type: ignore[arg-type]


def test_n_answers_are_those_of_n_seeds_whatever_else_is_answered(llm: LLM) -> None:
    first, other = llm.generate(PROMPTS, [params(n=3), params(n=2)])
    alone = [llm.generate(PROMPTS[:1], params(seed=seed))[0] for seed in (7, 8, 9)]
    assert [output.token_ids for output in (first, *first.others)] == [output.token_ids for output in alone]
    assert len({output.text for output in (first, *first.others)}) == 3
    assert len(other.others) == 1


def test_without_a_seed_n_answers_differ(llm: LLM) -> None:
    (output,) = llm.generate(PROMPTS[:1], SamplingParams(n=3, max_tokens=20))
    assert len({one.token_ids for one in (output, *output.others)}) == 3


def test_the_best_of_several_is_the_likeliest_a_token(llm: LLM) -> None:
    made = [llm.generate(PROMPTS[:1], params(seed=7 + index, logprobs=0))[0] for index in range(5)]
    means = {output.token_ids: sum(one.logprob for one in output.logprobs) / len(output.logprobs) for output in made}
    wanted = sorted(means, key=lambda tokens: -means[tokens])
    (output,) = llm.generate(PROMPTS[:1], params(n=2, best_of=5))
    assert [one.token_ids for one in (output, *output.others)] == wanted[:2]
    assert output.logprobs == output.others[0].logprobs == ()
    (told,) = llm.generate(PROMPTS[:1], params(best_of=5, logprobs=1))
    assert [len(one.top) for one in told.logprobs] == [1] * len(told.token_ids)
    (piece,) = llm.stream(PROMPTS[0], params(best_of=5))
    assert (piece.token_ids, piece.text) == (output.token_ids, output.text)
    assert piece.usage is not None
    assert piece.usage.completion_tokens == sum(len(output.token_ids) for output in made)


def test_greedy_choices_are_one_and_the_same(llm: LLM) -> None:
    (output,) = llm.generate(PROMPTS[:1], SamplingParams(temperature=0, n=2, best_of=3, max_tokens=6))
    assert output.token_ids == output.others[0].token_ids


def test_seeds_of_choices_stay_seeds() -> None:
    assert [one.seed for one in each(params(seed=2**63 - 1, n=2))] == [2**63 - 1, 0]
    assert each(SEEDED) == [SEEDED]


def test_a_stream_of_several_answers_is_refused(llm: LLM) -> None:
    with pytest.raises(GenerationError, match="n=2 answers cannot be told as one"):
        llm.stream("The", params(n=2))
    with pytest.raises(GenerationError, match="one sequence is one answer"):
        llm.sequence("The", params(best_of=2))

"""Wrong wishes are refused with name, value and rule."""

import math
from typing import Any

import pytest

from hanbit.common.errors import GenerationError
from hanbit.engine.sampling_params import SamplingParams


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", "1"),
        ("temperature", True),
        ("top_p", 0),
        ("top_p", 1.01),
        ("top_p", None),
        ("top_p_decay", 0),
        ("top_p_decay", 1.1),
        ("top_p_min", 0),
        ("top_p_min", 1.5),
        ("top_p_reset_ids", [-1]),
        ("top_p_reset_ids", "."),
        ("top_k", -2),
        ("top_k", 1.5),
        ("min_p", -0.1),
        ("min_p", 2),
        ("seed", -1),
        ("seed", 1.0),
        ("max_tokens", 0),
        ("max_tokens", "9"),
        ("repetition_penalty", 0),
        ("repetition_penalty", 1e-40),
        ("repetition_penalty", 1e40),
        ("repetition_penalty", math.inf),
        ("presence_penalty", 2.5),
        ("frequency_penalty", math.nan),
        ("logit_bias", [3]),
        ("logit_bias", {"3": 1.0}),
        ("logit_bias", {3: 101}),
        ("bad_words", [""]),
        ("bad_words", [[]]),
        ("bad_words", [[1, -1]]),
        ("bad_words", [3]),
        ("bad_words", ["a"] * 1025),
        ("bad_words", {"a": 1}),
        ("min_tokens", -1),
        ("num_beams", 0),
        ("num_beams", 33),
        ("length_penalty", 9),
        ("length_penalty", "1"),
        ("early_stopping", "always"),
        ("n", 0),
        ("n", 129),
        ("best_of", 0),
        ("best_of", 129),
        ("logprobs", 21),
        ("logprobs", True),
        ("stop", [""]),
        ("stop", [1]),
        ("stop", 5),
    ],
)
def test_a_wrong_value_is_named_with_its_rule(name: str, value: Any) -> None:
    wrong: dict[str, Any] = {name: value}
    with pytest.raises(GenerationError, match=rf"{name}=.* must be "):
        SamplingParams(**wrong)


def test_a_single_stop_text_is_a_list_of_one() -> None:
    assert SamplingParams(stop="ab").stop == SamplingParams(stop=["ab"]).stop == ("ab",)


def test_top_k_of_minus_1_means_all_as_in_vllm() -> None:
    assert SamplingParams(top_k=-1) == SamplingParams(top_k=0)


def test_a_least_nucleus_above_the_first_is_refused() -> None:
    with pytest.raises(GenerationError, match=r"top_p_min=0.6 must be above 0 and at most top_p=0.5"):
        SamplingParams(top_p=0.5, top_p_decay=0.9, top_p_min=0.6)
    assert SamplingParams(top_p_reset_ids=4).top_p_reset_ids == (4,)  # type: ignore[arg-type]


def test_the_best_are_of_at_least_as_many_as_are_given() -> None:
    with pytest.raises(GenerationError, match="best_of=2 must be a whole number from n=3"):
        SamplingParams(n=3, best_of=2)


@pytest.mark.parametrize("beside", [{"n": 3}, {"best_of": 2}, {"prompt_logprobs": 0}])
def test_what_a_beam_search_cannot_do_is_refused_by_name(beside: dict[str, Any]) -> None:
    with pytest.raises(GenerationError, match=f"{next(iter(beside))}=.* must be "):
        SamplingParams(num_beams=2, **beside)


def test_no_tokens_may_be_asked_for_only_with_the_prompts_logprobs() -> None:
    assert SamplingParams(max_tokens=0, prompt_logprobs=0).max_tokens == 0
    with pytest.raises(GenerationError, match="max_tokens=0 must be a whole number from 1"):
        SamplingParams(max_tokens=0)


def test_no_stop_texts_may_be_written_as_none() -> None:
    assert SamplingParams(stop=None) == SamplingParams()  # type: ignore[arg-type]

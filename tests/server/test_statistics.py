"""What OpenAI's clients ask is in the statistics of KServe, under the models that it reaches."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import tritonclient.http as client
from openai import BadRequestError, OpenAI

from tests.server.served import Served

Counts = Callable[[str], tuple[int, int, int]]


@pytest.fixture(scope="module")
def openai(served: Served) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0, timeout=30) as found:
        yield found


@pytest.fixture
def since(served: Served) -> Iterator[Counts]:
    """By a model's name: successes, failures and departures since the test began."""
    with client.InferenceServerClient(served.http) as triton:

        def counted() -> dict[str, tuple[int, int, int]]:
            entries = triton.get_inference_statistics()["model_stats"]
            return {entry["name"]: _counts(entry) for entry in entries}

        before = counted()

        def found(name: str) -> tuple[int, int, int]:
            success, fail, cancel = (new - old for new, old in zip(counted()[name], before[name], strict=True))
            return success, fail, cancel

        yield found


def _counts(entry: dict[str, Any]) -> tuple[int, int, int]:
    whole, places = entry["inference_stats"], entry["response_stats"].values()
    return whole["success"]["count"], whole["fail"]["count"], sum(place["cancel"]["count"] for place in places)


def test_every_answer_counts_for_the_name_that_was_asked_and_for_its_engines_model(
    openai: OpenAI, since: Counts
) -> None:
    openai.completions.create(model="tuned", prompt=["The", "dog"], n=2, max_tokens=3, temperature=0)
    assert since("tuned") == since("tuned_model") == (4, 0, 0)
    for other in ("small", "small_model", "small_tokenize", "small_detokenize"):
        assert since(other) == (0, 0, 0)


def test_a_streamed_answer_counts_once_when_it_has_ended(openai: OpenAI, since: Counts) -> None:
    stream = openai.completions.create(model="small", prompt="The", max_tokens=5, temperature=0, stream=True)
    assert len(list(stream)) > 1
    assert since("small") == since("small_model") == (1, 0, 0)


def test_what_the_model_cannot_take_is_a_failure(openai: OpenAI, since: Counts) -> None:
    with pytest.raises(BadRequestError):
        openai.completions.create(model="small", prompt=[5, 99999], max_tokens=3)
    assert since("small") == since("small_model") == (0, 1, 0)


def test_an_answer_that_nobody_waits_for_is_a_departure(served: Served, openai: OpenAI, since: Counts) -> None:
    stream = openai.completions.create(
        model="small", prompt="The", max_tokens=16000, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    stream.close()
    served.wait_until_idle()
    assert since("small") == since("small_model") == (0, 0, 1)

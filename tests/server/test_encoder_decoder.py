"""A T5 behind the server: OpenAI's completions and Triton's ensemble give the engine's answers."""

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
import tritonclient.http as client
from openai import OpenAI

from hanbit import LLM, SamplingParams
from hanbit.repository.deploy import deploy
from tests.engine.test_encoder_decoder import write_t5
from tests.server.asking import PROMPT, inputs, text_of
from tests.server.served import Served, serving

GREEDY = SamplingParams(temperature=0, max_tokens=12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_t5(tmp_path_factory.mktemp("t5"), "t5")


@pytest.fixture(scope="module")
def t5(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    repository = tmp_path_factory.mktemp("repository")
    deploy(folder, "small", repository)
    with serving(repository) as found:
        yield found


def test_both_protocols_give_the_engines_answer(t5: Served, folder: Path) -> None:
    wanted = LLM(folder, device="cpu").generate([PROMPT], GREEDY)[0]
    openai_client = OpenAI(base_url=f"{t5.url}/v1", api_key="none", max_retries=0)
    made = openai_client.completions.create(model="small", prompt=PROMPT, temperature=0, max_tokens=12)
    assert made.choices[0].text == wanted.text
    assert made.usage is not None
    assert made.usage.prompt_tokens == len(wanted.prompt_token_ids)
    with client.InferenceServerClient(t5.http) as triton:
        assert text_of(triton.infer("small", inputs(client, max_tokens=12))) == wanted.text


def test_a_prompt_may_fill_the_context_and_what_is_not_built_is_refused(t5: Served) -> None:
    openai_client = OpenAI(base_url=f"{t5.url}/v1", api_key="none", max_retries=0)
    ask = openai_client.completions.create
    assert ask(model="small", prompt=[5] * 512, max_tokens=3).usage.prompt_tokens == 512  # type: ignore[union-attr]
    with pytest.raises(openai.BadRequestError, match="has 513 tokens and the model's context holds 512") as caught:
        ask(model="small", prompt=[5] * 513, max_tokens=3)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="a t5 reads its prompt and says nothing of it"):
        ask(model="small", prompt="a", max_tokens=3, echo=True, logprobs=1)
    with pytest.raises(openai.BadRequestError, match="a t5 has no sessions"):
        ask(model="small", prompt="a", max_tokens=3, extra_body={"session_id": "x", "session_start": True})

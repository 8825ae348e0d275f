"""Sessions over the wire: NVIDIA's clients with sequence ids, OpenAI's completions with session_id."""

from typing import Any

import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client

from hanbit import LLM, SamplingParams
from tests.server.asking import Http, inputs, text_of
from tests.server.served import Served

TURNS = ["The quick 안녕하세요", " brown", " fox 😀 jumps"]
GREEDY = SamplingParams(temperature=0, max_tokens=9)


@pytest.fixture(scope="module")
def wanted(llm: LLM) -> list[str]:
    """Each turn as one request with the tokens of all before."""
    tokens: list[int] = []
    found = []
    for turn in TURNS:
        tokens += llm.tokenizer.encode(turn, add_special_tokens=not tokens)
        (output,) = llm.generate([tokens], GREEDY)
        tokens += output.token_ids
        found.append(output.text)
    return found


@pytest.mark.parametrize("name", [41, "a talk"])
@pytest.mark.parametrize("client", [http_client, grpc_client], ids=["http", "grpc"])
def test_a_sequence_id_continues_what_was_said(client: Any, name: int | str, served: Served, wanted: list[str]) -> None:
    address = served.http if client is http_client else served.grpc
    with client.InferenceServerClient(address) as triton:
        for place, (turn, text) in enumerate(zip(TURNS, wanted, strict=True)):
            result = triton.infer(
                "small",
                inputs(client, text_input=turn, max_tokens=9),
                sequence_id=name,
                sequence_start=place == 0,
                sequence_end=place == 2,
            )
            assert text_of(result) == text
    served.wait_until_idle()
    (service,) = {model.service for model in served.catalogue.language_models().values()}
    assert service.cache_counts.blocks_held == 0


def test_openais_completions_continue_a_session(served: Served, wanted: list[str]) -> None:
    http = Http(served.http)
    body = {"model": "small", "max_tokens": 9, "temperature": 0, "session_id": "mine"}
    for place, (turn, text) in enumerate(zip(TURNS, wanted, strict=True)):
        reply = http.ask(
            "/v1/completions", {**body, "prompt": turn, "session_start": place == 0, "session_end": place == 2}
        )
        assert reply.json()["choices"][0]["text"] == text
    reply = http.ask("/v1/completions", {**body, "prompt": "x"})
    assert reply.status == 400
    assert "session 'mine' is not open" in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sequence_id": 12}, "session 12 is not open: it was never begun"),
        ({"sequence_id": -1}, "sequence_id=-1 must be a whole number of 64 bits"),
        ({"sequence_id": 1.5}, "sequence_id=1.5 must be"),
        ({"sequence_id": True}, "sequence_id=True must be"),
        ({"sequence_id": 2**64}, "parameter 'sequence_id' must be from -2^63 to below 2^64"),
        ({"sequence_id": "x" * 300}, "must be a whole number of 64 bits, or a text of at most 256 characters"),
        ({"sequence_id": 1, "sequence_start": 1}, "sequence_start=1 must be true or false"),
        ({"sequence_start": True}, "sequence_start belongs to a sequence_id other than 0"),
        ({"sequence_id": 0, "sequence_start": True}, "sequence_start belongs to a sequence_id other than 0"),
        ({"sequence_id": "", "sequence_end": True}, "sequence_end belongs to a sequence_id other than 0"),
        ({"sequence_id": 1, "sequence_start": True, "best_of": 2}, "leave out sequence_id or best_of"),
        ({"sequence_id": 1, "sequence_start": True, "num_beams": 2}, "num_beams=2: a session goes on in one way"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_no_turn_is_refused(given: dict[str, Any], message: str, served: Served) -> None:
    reply = Http(served.http).ask("/v2/models/small/generate", {"text_input": "a", "max_tokens": 2, **given})
    assert reply.status == 400
    assert message in reply.json()["error"]


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"session_start": True}, "session_id"),
        ({"session_id": "a", "n": 2}, "n"),
        ({"session_id": "a", "prompt": ["a", "b"]}, "prompt"),
        ({"session_id": "a", "echo": True}, "echo"),
        ({"session_id": ""}, "session_id"),
    ],
    ids=str,
)
def test_completions_name_the_field_that_a_session_does_not_go_with(
    given: dict[str, Any], param: str, served: Served
) -> None:
    reply = Http(served.http).ask("/v1/completions", {"model": "small", "prompt": "a", "max_tokens": 2, **given})
    assert reply.status == 400
    assert reply.json()["error"]["param"] == param

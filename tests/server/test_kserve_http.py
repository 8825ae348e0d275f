"""KServe v2 over HTTP, asked by NVIDIA's own client; answers are those of the engine on the same folder."""

import gzip
import re
import zlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tritonclient.http as client

from hanbit import LLM, SamplingParams
from tests.server.asking import PROMPT, Http, inputs, text_of
from tests.server.served import Served

GREEDY = SamplingParams(temperature=0, max_tokens=24)


@pytest.fixture(scope="module")
def triton(served: Served) -> Iterator[client.InferenceServerClient]:
    with client.InferenceServerClient(served.http) as found:
        yield found


@pytest.fixture(scope="module")
def http(served: Served) -> Http:
    return Http(served.http)


def whole(llm: LLM, params: SamplingParams = GREEDY, adapter: str | None = None) -> str:
    return llm.generate([PROMPT], params, adapter=adapter)[0].text


def test_server_and_models_say_what_they_are(triton: client.InferenceServerClient) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready("small")
    assert triton.is_model_ready("small", "1")
    assert triton.get_server_metadata()["name"] == "hanbit"
    metadata = triton.get_model_metadata("small")
    assert metadata["versions"] == ["1"]
    assert metadata["platform"] == "ensemble"
    assert {"name": "text_input", "datatype": "BYTES", "shape": [1]} in metadata["inputs"]
    config = triton.get_model_config("small")
    assert [step["model_name"] for step in config["ensemble_scheduling"]["step"]] == [
        "small_tokenize",
        "small_model",
        "small_detokenize",
    ]
    assert config["input"][0]["dims"] == [1]
    assert triton.get_model_config("small_model")["model_transaction_policy"] == {"decoupled": True}


def test_index_lists_every_model(triton: client.InferenceServerClient) -> None:
    index = {line["name"]: line for line in triton.get_model_repository_index()}
    assert set(index) == {
        "small", "small_tokenize", "small_model", "small_detokenize", "tuned", "tuned_model",
    }  # fmt: skip
    assert all(line["state"] == "READY" and line["version"] == "1" for line in index.values())


@pytest.mark.parametrize("binary", [True, False])
def test_infer_gives_the_engines_answer(binary: bool, triton: client.InferenceServerClient, llm: LLM) -> None:
    outputs = [client.InferRequestedOutput("text_output", binary_data=binary)]
    result = triton.infer("small", inputs(client, binary, max_tokens=24), outputs=outputs, request_id="mine")
    assert text_of(result) == whole(llm)
    assert result.get_response()["id"] == "mine"
    assert [output["name"] for output in result.get_response()["outputs"]] == ["text_output"]


def test_outputs_that_are_not_chosen_all_come(triton: client.InferenceServerClient) -> None:
    result = triton.infer("small", inputs(client, max_tokens=3))
    assert result.as_numpy("finish_reason").tolist() == [b"length"]


def test_adapter_is_a_model_by_its_own_name(triton: client.InferenceServerClient, llm: LLM) -> None:
    tuned = text_of(triton.infer("tuned", inputs(client, max_tokens=24)))
    assert tuned == whole(llm, adapter="tuned")
    assert tuned != whole(llm)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_requests_are_read(algorithm: str, triton: client.InferenceServerClient, llm: LLM) -> None:
    result = triton.infer("small", inputs(client, max_tokens=24), request_compression_algorithm=algorithm)
    assert text_of(result) == whole(llm)


def test_sampling_is_by_the_tensors(triton: client.InferenceServerClient, llm: LLM) -> None:
    asked = inputs(client, max_tokens=16, temperature=0.9, top_k=40, top_p=0.5)
    seed = client.InferInput("seed", [1], "UINT64")
    seed.set_data_from_numpy(np.array([7], dtype=np.uint64))
    params = SamplingParams(temperature=float(np.float32(0.9)), top_k=40, top_p=0.5, seed=7, max_tokens=16)
    assert text_of(triton.infer("small", [*asked, seed])) == whole(llm, params)


def test_stop_texts_end_the_answer_before_them(http: Http, llm: LLM) -> None:
    full = whole(llm)
    stop = full[len(full) // 2 :][:2]
    params = SamplingParams(temperature=0, max_tokens=24, stop=[stop])
    body = {"text_input": PROMPT, "temperature": 0, "max_tokens": 24, "stop": [stop], "stop_words": ["never said"]}
    found = http.ask("/v2/models/small/generate", body).json()
    assert found["text_output"] == whole(llm, params) == full[: full.index(stop)]
    assert found["finish_reason"] == "stop"


def test_an_answer_has_at_least_min_tokens_whatever_stops_it(http: Http, llm: LLM) -> None:
    stop = whole(llm)[2:4]
    body: dict[str, Any] = {"text_input": PROMPT, "temperature": 0, "max_tokens": 24, "stop": [stop]}
    wanted = whole(llm, replace(GREEDY, stop=[stop], min_tokens=9))
    assert wanted != whole(llm, replace(GREEDY, stop=[stop]))
    for name in ("min_tokens", "min_length"):
        found = http.ask("/v2/models/small/generate", {**body, name: 9}).json()
        assert found.get("text_output") == wanted, found
    twice = {**body, "min_tokens": 9, "min_length": 9}
    del twice["stop"]
    found = http.ask("/v2/models/small/infer", _as_parameters(twice))
    assert found.status == 400
    assert "mean the same" in found.json()["error"]


def test_fastertransformers_names_of_parameters_are_known(http: Http, llm: LLM) -> None:
    theirs = {"request_output_len": 24, "runtime_top_k": 40, "runtime_top_p": 0.5, "random_seed": 7}
    body = {"text_input": PROMPT, "parameters": theirs}
    params = SamplingParams(temperature=1.0, top_k=40, top_p=0.5, seed=7, max_tokens=24)
    assert http.ask("/v2/models/small/generate", body).json()["text_output"] == whole(llm, params)


def test_the_best_of_several_is_given_whole(http: Http, llm: LLM) -> None:
    body = {"text_input": PROMPT, "temperature": 1, "max_tokens": 12, "seed": 2, "best_of": 5}
    params = SamplingParams(temperature=1.0, max_tokens=12, seed=2, best_of=5)
    assert http.ask("/v2/models/small/generate", body).json()["text_output"] == whole(llm, params)
    assert whole(llm, params) != whole(llm, replace(params, best_of=None))
    refused = http.ask("/v2/models/small/generate_stream", body)
    assert refused.status == 400
    assert "best_of" in refused.json()["error"]


@pytest.mark.parametrize(
    ("kind", "guide", "pattern"),
    [
        ("json", "", r"\{.*"),
        ("json_schema", '{"enum": [12, 34]}', "12|34"),
        ("regex", "[a-d]{3}", "[a-d]{3}"),
        ("ebnf_grammar", 'start: "x" | "y"', "x|y"),
    ],
)
def test_forms_by_tensorrt_llms_names_are_kept(kind: str, guide: str, pattern: str, http: Http) -> None:
    body = {"text_input": PROMPT, "max_tokens": 9, "seed": 2}
    body |= {"guided_decoding_guide_type": kind, "guided_decoding_guide": guide}
    assert re.fullmatch(pattern, http.ask("/v2/models/small/generate", body).json()["text_output"])


def test_a_form_that_cannot_be_kept_is_a_400_with_the_reason(http: Http) -> None:
    body = {"text_input": PROMPT, "guided_decoding_guide_type": "regex", "guided_decoding_guide": "("}
    for change, words in (
        ({}, "invalid regex"),
        ({"guided_decoding_guide": "a" * 2**20}, "characters"),
        ({"guided_decoding_guide_type": "xml"}, "must be one of json"),
    ):
        found = http.ask("/v2/models/small/generate", {**body, **change})
        assert found.status == 400
        assert words in found.json()["error"]


def test_a_form_with_half_a_character_is_a_400_too(http: Http) -> None:
    """As a parameter, which is a text of JSON's and no tensor."""
    body = {"text_input": PROMPT, "guided_decoding_guide_type": "regex", "guided_decoding_guide": "\ud800"}
    found = http.ask("/v2/models/small/infer", _as_parameters(body))
    assert found.status == 400
    assert "half a surrogate pair" in found.json()["error"]


def test_beams_go_by_our_names_and_by_fastertransformers(http: Http, llm: LLM) -> None:
    wanted = whole(llm, SamplingParams(num_beams=3, length_penalty=0.5, max_tokens=9))
    body = {"text_input": PROMPT, "max_tokens": 9}
    for names in ({"num_beams": 3, "length_penalty": 0.5}, {"beam_width": 3, "len_penalty": 0.5}):
        assert http.ask("/v2/models/small/generate", {**body, **names}).json()["text_output"] == wanted


def test_the_makers_search_and_bad_words_count_unless_the_request_says_otherwise(
    http: Http, llm: LLM, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    makers: dict[str, Any] = {"bad_words": [[id] for id in range(100, 140)], "num_beams": 3, "length_penalty": 0.5}
    answering = served.catalogue.language_models()["small"].service.llm
    monkeypatch.setattr(answering, "defaults", replace(answering.defaults, sampling=makers))
    changes: tuple[dict[str, Any], ...] = ({}, {"length_penalty": 2.0}, {"bad_words": "fox", "num_beams": 2})
    for more in changes:
        wanted = whole(llm, SamplingParams(max_tokens=9, **{**makers, **more}))
        body = {"text_input": PROMPT, "max_tokens": 9, **more}
        assert http.ask("/v2/models/small/generate", body).json()["text_output"] == wanted
    drawn = SamplingParams(max_tokens=9, temperature=0.7, seed=4, bad_words=makers["bad_words"])
    body = {"text_input": PROMPT, "max_tokens": 9, "temperature": 0.7, "seed": 4}
    assert http.ask("/v2/models/small/generate", body).json()["text_output"] == whole(llm, drawn)


def _as_parameters(body: dict[str, Any]) -> dict[str, Any]:
    parameters = {name: value for name, value in body.items() if name != "text_input"}
    text = {"name": "text_input", "datatype": "BYTES", "shape": [1], "data": [body["text_input"]]}
    return {"inputs": [text], "parameters": parameters}


def test_bad_words_are_taken_as_texts_and_as_fastertransformer_sends_them(http: Http, llm: LLM) -> None:
    first, second = llm.generate([PROMPT], GREEDY)[0].token_ids[:2]
    words: list[Any] = ["fox", [first], [second, first]]
    asked = [
        {"name": "text_input", "datatype": "BYTES", "shape": [1], "data": [PROMPT]},
        {"name": "max_tokens", "datatype": "INT32", "shape": [1], "data": [24]},
        {"name": "temperature", "datatype": "FP32", "shape": [1], "data": [0]},
        {"name": "bad_words", "datatype": "BYTES", "shape": [1], "data": ["fox"]},
        {
            "name": "bad_words_list", "datatype": "INT32", "shape": [2, 3],
            "data": [first, second, first, 1, 3, -1],
        },
    ]  # fmt: skip
    reply = http.ask("/v2/models/small/infer", {"inputs": asked})
    found = {one["name"]: one["data"][0] for one in reply.json()["outputs"]}
    assert found["text_output"] == whole(llm, replace(GREEDY, bad_words=words)) != whole(llm)
    asked[-1]["data"][3] = 9
    assert http.ask("/v2/models/small/infer", {"inputs": asked}).status == 400


@pytest.mark.parametrize("nested", [True, False])
def test_generate_answers_plain_json(nested: bool, http: Http, llm: LLM) -> None:
    asked = {"temperature": 0, "max_tokens": 24}
    body = {"text_input": PROMPT, "id": "a"} | ({"parameters": asked} if nested else asked)
    found = http.ask("/v2/models/small/generate", body).json()
    assert found["text_output"] == whole(llm)
    assert found["id"] == "a"


def test_streamed_pieces_make_the_whole_answer_and_no_half_character(http: Http, llm: LLM) -> None:
    body = {"text_input": PROMPT, "temperature": 0, "max_tokens": 200}
    reply = http.ask("/v2/models/small/generate_stream", body)
    assert reply.headers["content-type"].startswith("text/event-stream")
    events = reply.events()
    assert len(events) == 200
    text = "".join(event["text_output"] for event in events)
    assert text == whole(llm, SamplingParams(temperature=0, max_tokens=200))
    assert [event["finish_reason"] for event in events][-2:] == ["", "length"]


def test_an_answer_whose_time_is_up_is_a_504_and_a_timeout_that_is_none_a_400(http: Http, llm: LLM) -> None:
    body = {"text_input": PROMPT, "temperature": 0, "max_tokens": 24}
    late = http.ask("/v2/models/small/generate", {**body, "timeout": 1})
    assert late.status == 504
    assert "time for this answer is up" in late.json()["error"]
    assert http.ask("/v2/models/small/generate", {**body, "timeout": -1}).status == 400
    for enough in (0, 60_000_000):  # 0: all the time it takes
        assert http.ask("/v2/models/small/generate", {**body, "timeout": enough}).json()["text_output"] == whole(llm)


def test_steps_of_the_ensemble_can_be_asked_one_by_one(triton: client.InferenceServerClient, llm: LLM) -> None:
    ids = triton.infer("small_tokenize", inputs(client)[:1]).as_numpy("input_ids")
    assert ids.tolist() == llm.tokenizer.encode(PROMPT)
    prompt = client.InferInput("input_ids", list(ids.shape), "INT32")
    prompt.set_data_from_numpy(ids)
    answer = triton.infer("small_model", [prompt, *inputs(client, max_tokens=24)[1:]]).as_numpy("output_ids")
    assert tuple(answer) == llm.generate([PROMPT], GREEDY)[0].token_ids
    tokens = client.InferInput("output_ids", list(answer.shape), "INT32")
    tokens.set_data_from_numpy(answer)
    assert text_of(triton.infer("small_detokenize", [tokens])) == whole(llm)


def test_raw_body_is_the_input_that_is_needed(http: Http, llm: LLM) -> None:
    response = http.ask("/v2/models/small_tokenize/infer", PROMPT.encode(), Inference_Header_Content_Length="0")
    size = int(response.headers["Inference-Header-Content-Length"])
    assert np.frombuffer(response.content[size:], "<i4").tolist() == llm.tokenizer.encode(PROMPT)


def test_statistics_count_what_was_asked(served: Served, triton: client.InferenceServerClient) -> None:
    before = _counts(triton)
    triton.infer("small", inputs(client, max_tokens=2))
    with pytest.raises(client.InferenceServerException):
        triton.infer("small", inputs(client, max_tokens=-2))
    after = _counts(triton)
    assert [new - old for new, old in zip(after, before, strict=True)] == [1, 1]
    assert {entry["name"] for entry in triton.get_inference_statistics()["model_stats"]} >= {"small", "small_model"}


def _counts(triton: client.InferenceServerClient) -> list[int]:
    (found,) = triton.get_inference_statistics("small")["model_stats"]
    return [found["inference_stats"][key]["count"] for key in ("success", "fail")]


def test_bodies_over_the_limit_are_refused_packed_and_unpacked(http: Http) -> None:
    bomb = gzip.compress(b" " * (65 * 2**20))
    cut = zlib.compress(b"{}")[:-3]
    wrong = [(b" " * (64 * 2**20 + 1), "identity", 413), (bomb, "gzip", 413), (cut, "deflate", 400)]
    for content, encoding, status in wrong:
        reply = http.ask("/v2/models/small/infer", content, Content_Encoding=encoding)
        assert reply.status == status
        assert set(reply.json()) == {"error"}

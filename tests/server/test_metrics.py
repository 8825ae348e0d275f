"""What Prometheus reads at /metrics: every line of its format, and the numbers of what was just answered."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from hanbit.engine.speculation import Speculation
from hanbit.server.options import EngineOptions
from tests.server.asking import Http
from tests.server.served import Served, serving

LINE = re.compile(r'^([a-z_:]+)\{model_name="([^"]*)"(?:,position="(\d+)")?\} (\S+)$')


@pytest.fixture(scope="module")
def guessing(repository: Path) -> Iterator[Served]:
    lookup = Speculation("prompt_lookup", num_speculative_tokens=4, prompt_lookup_min=1)
    with serving(repository, engines=EngineOptions(speculation=lookup)) as found:
        yield found


def read(served: Served) -> dict[tuple[str, str | None], float]:
    """Numbers of the only engine by name and position; every line is one of the format's."""
    answer = Http(served.http).ask("/metrics", method="GET")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found, kinds = {}, {}
    for line in answer.content.decode().splitlines():
        if line.startswith("# TYPE "):
            kinds[line.split()[2]] = line.split()[3]
        elif not line.startswith(("# HELP ", "nv_")):
            match = LINE.match(line)
            assert match, line
            assert match[1] in kinds
            assert (kinds[match[1]] == "counter") == match[1].endswith("_total")
            found[match[1].removeprefix("vllm:"), match[3]] = float(match[4])
    assert len({name for name, _ in found}) == len([name for name in kinds if not name.startswith("nv_")])
    return found


def test_numbers_are_those_of_what_was_answered(guessing: Served) -> None:
    before = read(guessing)
    body = {"model": "small", "prompt": [5, 6, 7, 5, 6], "max_tokens": 40, "temperature": 0, "ignore_eos": True}
    body["logit_bias"] = {"3": 100, "70": 100}  # a text of few tokens repeats itself
    assert Http(guessing.http).ask("/v1/completions", body).status == 200
    guessing.wait_until_idle()
    after = read(guessing)
    grown = {key: after[key] - before[key] for key in after}
    assert grown["prompt_tokens_total", None] == 5
    assert grown["generation_tokens_total", None] == 40
    assert grown["prefix_cache_queries_total", None] == 5
    assert after["num_requests_running", None] == after["kv_cache_usage_perc", None] == 0
    accepted, drafted = (grown[f"spec_decode_num_{name}_tokens_total", None] for name in ("accepted", "draft"))
    assert 0 < accepted <= drafted <= 4 * grown["spec_decode_num_drafts_total", None]
    by_place = [grown["spec_decode_num_accepted_tokens_per_pos_total", str(place)] for place in range(4)]
    assert sum(by_place) == accepted
    assert by_place == sorted(by_place, reverse=True)


def test_a_server_that_does_not_guess_says_so_by_zeros(served: Served) -> None:
    found = read(served)
    assert found["spec_decode_num_drafts_total", None] == 0
    assert not any(position for _, position in found)


TRITON = re.compile(r'^(nv_[a-z_]+)\{model="([^"]+)",version="(\d+)"(?:,reason="([A-Z]+)")?\} (\d+)$')


def of_triton(served: Served) -> dict[tuple[str, str, str | None], int]:
    """Name, model, reason -> number."""
    text = Http(served.http).ask("/metrics", method="GET").content.decode()
    found = [TRITON.match(line) for line in text.splitlines() if line.startswith("nv_")]
    assert all(found)
    return {(one[1], one[2], one[4]): int(one[5]) for one in found if one is not None}


def test_tritons_names_count_what_was_sent(guessing: Served) -> None:
    """All that a model is asked is success or failure, by reason; the numbers are those of the statistics extension."""
    before, http, path = of_triton(guessing), Http(guessing.http), "/v2/models/small/generate"
    assert http.ask(path, {"text_input": "The", "max_tokens": 3}).status == 200
    assert http.ask(path, {"text_input": "The", "max_tokens": 2}).status == 200
    assert http.ask(path, {"text_input": "The", "max_tokens": "many"}).status == 400  # before a model is asked
    assert http.ask(path, {"text_input": "The", "top_p": 2.0}).status == 400  # by the model
    late = {"text_input": "The", "max_tokens": 4000, "ignore_eos": True, "timeout": 1}
    assert http.ask(path, late).status == 504
    guessing.wait_until_idle()
    after = of_triton(guessing)
    grown = {key: after[key] - before[key] for key in after}
    sent = grown["nv_inference_request_success", "small", None]
    reasons = {key[2]: n for key, n in grown.items() if key[:2] == ("nv_inference_request_failure", "small")}
    assert set(reasons) == {"REJECTED", "CANCELED", "BACKEND", "OTHER"}
    assert sent == 2
    assert reasons == {"REJECTED": 1, "CANCELED": 0, "BACKEND": 0, "OTHER": 1}
    assert grown["nv_inference_count", "small", None] == 2
    stats = http.ask("/v2/models/small/stats", method="GET").json()["model_stats"][0]["inference_stats"]
    for name, key in (("request", "success"), ("queue", "queue"), ("compute_infer", "compute_infer")):
        assert after[f"nv_inference_{name}_duration_us", "small", None] == stats[key]["ns"] // 1000
    assert after["nv_inference_pending_request_count", "small_model", None] == 0
    assert {"small", "small_tokenize", "small_model", "small_detokenize"} <= {key[1] for key in after}

"""A cached answer is the one that was given for the same request, and for no other; bytes and counts are kept to."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
from hypothesis import given, settings
from hypothesis import strategies as st

from hanbit.common.errors import ConfigError
from hanbit.server.request import InferRequest, InferResponse, RequestedOutput
from hanbit.server.response_cache import ModelCache, ResponseCache, cache_of
from hanbit.server.statistics import Statistics
from hanbit.server.tensors import Tensor, tensor
from tests.server.python_models.written import write_model
from tests.server.served import serving

CACHED = """
input { name: "X" data_type: TYPE_INT32 dims: [ -1 ] } output { name: "Y" data_type: TYPE_INT64 dims: [ -1 ] }
response_cache { enable: true }
"""
# answers with how often it was asked, so that whoever gets a number twice got it from the cache
COUNTS = """
def initialize(self, args):
    self.calls = 0

def execute(self, requests):
    found = []
    for request in requests:
        self.calls += 1
        y = np.full(request.inputs()[0].as_numpy().shape, self.calls, np.int64)
        found.append(pb_utils.InferenceResponse([pb_utils.Tensor("Y", y)]))
    return found
"""


def ask(client: Any, values: list[int], model: str = "counts", **more: Any) -> int:
    module = http_client if "http" in type(client).__module__ else grpc_client
    one = module.InferInput("X", [len(values)], "INT32")
    one.set_data_from_numpy(np.array(values, np.int32))
    found = client.infer(model, [one], **more).as_numpy("Y")
    assert len(set(found.tolist())) == 1
    return int(found[0])


def test_the_same_request_is_computed_once(tmp_path: Path) -> None:
    write_model(tmp_path, "counts", COUNTS, CACHED, place="thread")
    write_model(tmp_path, "plain", COUNTS, CACHED.replace("true", "false"), place="thread")
    with (
        serving(tmp_path, cache_bytes=100_000, clients_change_models=True, load=("counts", "plain")) as served,
        http_client.InferenceServerClient(served.http) as http,
        grpc_client.InferenceServerClient(served.grpc) as grpc,
    ):
        assert ask(http, [1, 2]) == 1
        assert ask(http, [1, 2]) == ask(grpc, [1, 2]) == 1
        assert ask(http, [1, 2], priority=1, timeout=10_000_000, request_id="other") == 1
        assert ask(http, [2, 1]) == 2
        assert ask(http, [1, 2], parameters={"mine": 1}) == 3  # a model may look at its parameters
        assert [ask(http, [1], "plain") for _ in range(2)] == [1, 2]
        (stats,) = http.get_inference_statistics("counts")["model_stats"]
        assert stats["inference_count"] == stats["execution_count"] == 3
        assert stats["inference_stats"]["success"]["count"] == 6
        assert stats["inference_stats"]["cache_hit"]["count"] == 3
        assert stats["inference_stats"]["cache_miss"]["count"] == 3
        assert stats["inference_stats"]["cache_hit"]["ns"] > 0
        http.load_model("counts")  # another model perhaps
        assert ask(http, [2, 1]) == 1


def test_without_a_cache_every_request_is_computed(tmp_path: Path) -> None:
    write_model(tmp_path, "counts", COUNTS, CACHED, place="thread")
    with serving(tmp_path) as served, http_client.InferenceServerClient(served.http) as http:
        assert [ask(http, [1]) for _ in range(3)] == [1, 2, 3]


def test_errors_are_not_kept(tmp_path: Path) -> None:
    fails = COUNTS.replace("        y = ", "        if self.calls == 1: raise ValueError('once')\n        y = ")
    write_model(tmp_path, "counts", fails, CACHED, place="thread")
    with (
        serving(tmp_path, cache_bytes=100_000) as served,
        http_client.InferenceServerClient(served.http) as http,
    ):
        with pytest.raises(http_client.InferenceServerException, match="once"):
            ask(http, [1])
        assert [ask(http, [1]) for _ in range(2)] == [2, 2]


def test_models_that_cannot_be_cached_are_refused_by_name(tmp_path: Path) -> None:
    write_model(tmp_path, "decoupled", COUNTS, f"{CACHED} model_transaction_policy {{ decoupled: true }}")
    write_model(tmp_path, "sequences", COUNTS, f"{CACHED} sequence_batching {{ }}")
    with serving(tmp_path, fail_if_a_model_fails=False) as served:
        index = {line.name: line for line in served.catalogue.index()}
    for name in ("decoupled", "sequences"):
        assert index[name].state == "UNAVAILABLE"
        assert "response_cache does not go with" in index[name].reason


def response(size: int) -> InferResponse:
    return InferResponse({"Y": tensor("Y", "UINT8", np.zeros(size, np.uint8))})


@given(sizes=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 3000)), max_size=60))
@settings(max_examples=60, deadline=None)
def test_no_more_bytes_are_kept_than_may_be_and_the_newest_stay(sizes: list[tuple[int, int]]) -> None:
    cache, kept = ResponseCache(8000), []  # a plain list, the newest last
    for key, size in sizes:
        cache.put(bytes([key]), response(size))
        kept = [one for one in kept if one[0] != key] + [(key, size)]
        while sum(512 + one[1] for one in kept) > 8000:
            kept.pop(0)
        assert cache.num_bytes == sum(512 + one[1] for one in kept) <= 8000
        assert len(cache) == len(kept)
    for key, size in kept:
        found = cache.get(bytes([key]))
        assert found is not None
        assert found.outputs["Y"].shape == (size,)


def test_what_is_larger_than_all_of_it_is_not_kept() -> None:
    cache = ResponseCache(1000)
    cache.put(b"small", response(10))
    cache.put(b"large", response(10_000))
    assert cache.get(b"large") is None
    assert cache.get(b"small") is not None


def test_every_part_of_a_request_is_in_its_key() -> None:
    def request(*inputs: Tensor, outputs: tuple[str, ...] = (), **parameters: Any) -> InferRequest:
        wanted = tuple(RequestedOutput(name) for name in outputs)
        return InferRequest("m", {one.name: one for one in inputs}, "1", "", wanted, parameters)

    def texts(name: str, *items: str) -> Tensor:
        return tensor(name, "BYTES", list(items))

    cache = ResponseCache(1000)
    requests = [
        request(texts("X", "ab", "c")),
        request(texts("X", "a", "bc")),
        request(texts("Z", "ab", "c")),
        request(texts("X", "ab", "c"), outputs=("Y",)),
        request(texts("X", "ab", "c"), mine=1),
        request(texts("X", "ab", "c"), mine=True),
        request(texts("X", "ab", "c"), mine="1"),
        request(tensor("X", "INT32", [1, 0])),
        request(tensor("X", "INT64", [1])),
        request(tensor("X", "INT32", [[1, 0]])),
        request(tensor("X", "INT32", [1]), tensor("Z", "INT32", [0])),
        request(tensor("Z", "INT32", [1]), tensor("X", "INT32", [0])),
    ]
    models = [ModelCache(cache, name, version, Statistics()) for name, version in (("m", "1"), ("m", "1"), ("m", "2"))]
    keys = [model.key(one) for model in models for one in requests]
    assert len(set(keys)) == len(keys)
    assert all(len(key) == 32 for key in keys)
    same = request(tensor("Z", "INT32", [0]), tensor("X", "INT32", [1]), timeout=5)
    assert models[0].key(same) == models[0].key(requests[10])  # whatever the order


def test_the_flag_is_read_as_triton_has_it() -> None:
    assert cache_of(None) is None
    assert cache_of(["local,size=1048576"]) == 1048576
    for bad in (["redis,host=x"], ["local"], ["local,size=-1"], ["local,size=0"], ["local,size=1", "local,size=2"]):
        with pytest.raises(ConfigError, match="--cache-config"):
            cache_of(bad)

"""Whatever is sent to /v2 over HTTP: a client's mistake is a 4xx with the reason, and the server goes on."""

import http.client
import json
import time
from typing import Any

import pytest

from tests.server.asking import Http
from tests.server.served import Served

INFER = "/v2/models/small/infer"
GENERATE = "/v2/models/small/generate"
STREAM = "/v2/models/small/generate_stream"
TEXT: dict[str, Any] = {"name": "text_input", "datatype": "BYTES", "shape": [1], "data": ["The"]}
CLASSES = {"classification": 2}
IDS: dict[str, Any] = {"name": "input_ids", "datatype": "INT32", "shape": [2], "data": [1, 2]}


def with_text(**changes: Any) -> dict[str, Any]:
    return {"inputs": [{**TEXT, **changes}]}


def binary(size: Any) -> dict[str, Any]:
    return {
        "inputs": [
            {**{key: TEXT[key] for key in ("name", "datatype", "shape")}, "parameters": {"binary_data_size": size}}
        ]
    }


def deep(levels: int) -> bytes:
    return b'{"inputs":' + b"[" * levels + b"]" * levels + b"}"


WRONG: dict[str, tuple[str, Any, int, str]] = {
    "no body": (INFER, b"", 400, "not JSON"),
    "no JSON": (INFER, b"{", 400, "not JSON"),
    "not UTF-8": (INFER, b'{"id": "\xff"}', 400, "not JSON"),
    "a list": (INFER, [], 400, "must be a JSON object"),
    "a deep list": (INFER, deep(200), 400, "nested more than 100"),
    "a bottomless list": (INFER, deep(200_000), 400, "nested more than 100"),
    "a key twice": (INFER, b'{"id": "a", "id": "b"}', 400, "'id' comes twice"),
    "a number of 5000 digits": (INFER, b'{"id": ' + b"9" * 5000 + b"}", 400, "not JSON"),
    "an unknown key": (INFER, {"input": []}, 400, "'input'; known are"),
    "an id that is half a sign": (INFER, b'{"id": "\\ud800", "inputs": []}', 400, "not '\\ud800'"),
    "generate, an id of half a sign": (GENERATE, b'{"id": "\\ud800", "text_input": "a"}', 400, "must be a text"),
    "generate with parameters that are a number": (GENERATE, {"text_input": "a", "parameters": 5}, 400, "an object"),
    "a stream with parameters that are a number": (STREAM, {"text_input": "a", "parameters": 5}, 400, "an object"),
    "a time-out of 400 digits": (GENERATE, {"text_input": "a", "timeout": 10**400}, 400, "'timeout' must be from"),
    "a seed of 400 digits": (INFER, {"inputs": [TEXT], "parameters": {"seed": 10**400}}, 400, "'seed' must be from"),
    "an id that is no text": (INFER, {"id": 3, "inputs": [TEXT]}, 400, "id must be a text"),
    "no inputs": (INFER, {}, 400, "has no inputs"),
    "inputs that are none": (INFER, {"inputs": []}, 400, "needs the input 'text_input'"),
    "inputs that are no list": (INFER, {"inputs": {"text_input": "The"}}, 400, "must be a list"),
    "an input without a name": (INFER, {"inputs": [{}]}, 400, "an object with a name"),
    "an input twice": (INFER, {"inputs": [TEXT, TEXT]}, 400, "given twice"),
    "an unknown input": (INFER, with_text(name="txet"), 400, "no input 'txet'; it takes text_input, max_tokens"),
    "a name with NUL": (INFER, with_text(name="a\0b"), 400, "no input 'a\\x00b'"),
    "a wrong datatype": (INFER, with_text(datatype="FP32", data=[1.0]), 400, "is BYTES, not FP32"),
    "a datatype that is none": (INFER, with_text(datatype="TEXT"), 400, "datatype 'TEXT' is not one of"),
    "a wrong shape": (INFER, with_text(shape=[2], data=["a", "b"]), 400, "shape [2]; expected [1]"),
    "one dim too many": (INFER, with_text(shape=[1, 1]), 400, "shape [1, 1]; expected [1]"),
    "no shape": (INFER, with_text(shape=None), 400, "a datatype and a shape"),
    "a negative dim": (INFER, with_text(shape=[-1]), 400, "dim -1"),
    "a dim that is no number": (INFER, with_text(shape=["1"]), 400, "dim '1'"),
    "dims that overflow": (INFER, with_text(shape=[2**31 - 1, 2**31 - 1, 2**31 - 1]), 400, "but 1 are given"),
    "a huge dim": (INFER, with_text(shape=[2**64]), 400, "dim 18446744073709551616"),
    "too many dims": (INFER, with_text(shape=[1] * 100), 400, "100 dims"),
    "too few elements": (INFER, with_text(shape=[3]), 400, "3 elements, but 1"),
    "no data": (INFER, with_text(data=None), 400, "needs data"),
    "data that is no text": (INFER, with_text(data=[3]), 400, "texts in Unicode"),
    "half a surrogate": (INFER, b'{"inputs":[{"name":"text_input","datatype":"BYTES","shape":[1],"data":["\\ud800"]}]}',
                         400, "texts in Unicode"),
    "lists and values mixed": ("/v2/models/small_model/infer", {"inputs": [{**IDS, "shape": [1, 2], "data": [[1], 2]}]},
                               400, "mixes lists and values"),
    "a fraction for an integer": ("/v2/models/small_model/infer", {"inputs": [{**IDS, "data": [1.5, 2]}]}, 400, "1.5"),
    "true for an integer": ("/v2/models/small_model/infer", {"inputs": [{**IDS, "data": [True, 2]}]}, 400, "True"),
    "an integer that does not fit": ("/v2/models/small_model/infer", {"inputs": [{**IDS, "data": [2**40, 2]}]}, 400,
                                     "does not fit INT32"),
    "a token outside the vocabulary": ("/v2/models/small_model/infer", {"inputs": [{**IDS, "data": [-1, 2]}]}, 400,
                                       "outside the model's vocabulary"),
    "negative ids to detokenize": ("/v2/models/small_detokenize/infer",
                                   {"inputs": [{**IDS, "name": "output_ids", "data": [-1, 2]}]}, 400, "token ids"),
    "huge ids to detokenize": ("/v2/models/small_detokenize/infer",
                               {"inputs": [{**IDS, "name": "output_ids", "data": [2**31 - 1, 2]}]}, 200, ""),
    "binary data without a header": (INFER, binary(7), 400, "binary_data_size=7 does not fit the 0 bytes"),
    "a binary size that is no number": (INFER, binary("7"), 400, "does not fit"),
    "data and binary data": (INFER, with_text(parameters={"binary_data_size": 0}), 400, "more than one of data"),
    "shared memory": (INFER, with_text(parameters={"shared_memory_region": "x"}), 400, "shared_memory_byte_size=None"),
    "a parameter that is a list": (INFER, {**with_text(), "parameters": {"seed": [1]}}, 400, "a number or a text"),
    "a parameter that is NaN": (INFER, b'{"inputs":[],"parameters":{"temperature":NaN}}', 400, "a number or a text"),
    "an unknown parameter": (INFER, {**with_text(), "parameters": {"temprature": 0}}, 400, "unknown parameter"),
    "an unknown output": (INFER, {**with_text(), "outputs": [{"name": "txet"}]}, 400, "no output 'txet'"),
    "an output twice": (INFER, {**with_text(), "outputs": [{"name": "text_output"}] * 2}, 400, "asked for twice"),
    "classification": (INFER, {**with_text(), "outputs": [{"name": "text_output", "parameters": CLASSES}]}, 400,
                       "BYTES, which has no classes"),
    "an unknown model": ("/v2/models/nobody/infer", with_text(), 404, "no model 'nobody'"),
    "a path for a model": ("/v2/models/..%2f..%2fetc/infer", with_text(), 404, "there is no"),
    "an unknown version": ("/v2/models/small/versions/7/infer", with_text(), 404, "no version '7'"),
    "a version that is no number": ("/v2/models/small/versions/x/infer", with_text(), 404, "no version 'x'"),
    "an unknown path": ("/v2/models/small/infre", with_text(), 404, "there is no POST /v2/models/small/infre"),
    "a setting of no trace": ("/v2/trace/setting", {"trace_mood": "1"}, 400, "no setting 'trace_mood'"),
    "a region of shared memory": ("/v2/systemsharedmemory/region/a/register", {"key": "a", "byte_size": 1}, 501,
                                  "--allow-client-shm"),
    "max_tokens of 0": (GENERATE, {"text_input": "The", "max_tokens": 0}, 400, "max_tokens=0 must be"),
    "a negative temperature": (GENERATE, {"text_input": "The", "temperature": -1}, 400, "temperature=-1"),
    "a temperature of NaN": (GENERATE, b'{"text_input": "The", "temperature": NaN}', 400, "temperature=nan"),
    "an infinite temperature": (GENERATE, b'{"text_input": "The", "temperature": 1e999}', 400, "temperature=inf"),
    "a temperature beyond float32": (GENERATE, {"text_input": "The", "temperature": 1e300}, 400, "does not fit FP32"),
    "a temperature that is a text": (GENERATE, {"text_input": "The", "temperature": "hot"}, 400, "'hot'"),
    "a negative seed": (GENERATE, {"text_input": "The", "seed": -1}, 400, "does not fit UINT64"),
    "a parameter twice": (GENERATE, {"text_input": "The", "seed": 1, "parameters": {"seed": 2}}, 400, "given twice"),
    "no text": (GENERATE, {"max_tokens": 3}, 400, "needs the input 'text_input'"),
    "two texts": (GENERATE, {"text_input": ["a", "b"]}, 400, "shape [2]; expected [1]"),
    "nothing in a list": (GENERATE, {"text_input": []}, 400, "shape [0]; expected [1]"),
    "pieces where one answer fits": (GENERATE, {"text_input": "The", "stream": True}, 400, "through a stream"),
    "a hundred stop texts": (GENERATE, {"text_input": "The", "stop": ["x"] * 100}, 400, "at most 64 stop texts"),
    "a prompt over the context": (GENERATE, {"text_input": "q1" * 12_000}, 400, "Shorten it by at least"),
    "a prompt far over the context": (GENERATE, {"text_input": "q1" * 3_000_000}, 400, "Shorten it"),
    "loading without leave": ("/v2/repository/models/small/load", {}, 400, "--model-control-mode explicit"),
    "an error before a stream": ("/v2/models/small/generate_stream", {"text_input": "q1" * 12_000}, 400, "Shorten it"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_requests_are_refused_with_the_reason(name: str, served: Served) -> None:
    path, body, status, words = WRONG[name]
    reply = Http(served.http).ask(path, body)
    assert reply.status == status, reply.content[:500]
    if status != 200:
        assert set(reply.json()) == {"error"}
        assert words in reply.json()["error"]
        assert "Traceback" not in reply.json()["error"]
    assert not served.running()


@pytest.mark.parametrize("length", ["99999", "-1", "x", "1e3", "²", "", "9" * 5000])
def test_header_length_that_cannot_be_is_refused(length: str, served: Served) -> None:
    reply = Http(served.http).ask(INFER, with_text(), Inference_Header_Content_Length=length.encode().decode("latin-1"))
    assert reply.status == 400
    assert "Inference-Header-Content-Length" in reply.json()["error"]


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "more than its 0 bytes can hold"),
        (b"\xff\xff\xff\xff", "goes beyond its 4 bytes"),
        (b"\x03\0\0\0The!", "1 bytes after its 1 elements"),
        (b"\x01\0\0\0\xff", "not UTF-8"),
    ],
)
def test_binary_texts_that_do_not_add_up_are_refused(raw: bytes, words: str, served: Served) -> None:
    text = json.dumps(binary(len(raw))).encode()
    reply = Http(served.http).ask(INFER, text + raw, Inference_Header_Content_Length=str(len(text)))
    assert reply.status == 400
    assert words in reply.json()["error"]


def test_bytes_that_belong_to_no_input_are_refused(served: Served) -> None:
    text = json.dumps(with_text()).encode()
    reply = Http(served.http).ask(INFER, text + b"more", Inference_Header_Content_Length=str(len(text)))
    assert "4 bytes after the last tensor" in reply.json()["error"]


def test_a_wrong_method_is_405_in_the_same_shape(served: Served) -> None:
    reply = Http(served.http).ask(INFER, method="DELETE")
    assert reply.status == 405
    assert set(reply.json()) == {"error"}


@pytest.mark.parametrize("path", ["generate_stream", "generate"])
def test_a_client_that_leaves_ends_the_work(path: str, served: Served) -> None:
    connection = http.client.HTTPConnection(served.http, timeout=30)
    body = json.dumps({"text_input": "The", "max_tokens": 16000, "ignore_eos": True})
    connection.request("POST", f"/v2/models/small/{path}", body)
    if path == "generate_stream":
        assert connection.getresponse().readline().startswith(b"data: ")
    deadline = time.monotonic() + 10
    while not served.running() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert served.running() == 1
    connection.sock.close() if connection.sock else None
    connection.close()
    served.wait_until_idle()


def test_a_client_that_leaves_in_the_middle_of_its_body_harms_nobody(served: Served) -> None:
    connection = http.client.HTTPConnection(served.http, timeout=30)
    connection.putrequest("POST", INFER)
    connection.putheader("Content-Length", "1000")
    connection.endheaders(b"{")
    connection.close()
    assert Http(served.http).ask("/v2/health/ready", method="GET").status == 200

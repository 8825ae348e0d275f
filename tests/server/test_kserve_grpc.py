"""KServe v2 over gRPC, asked by NVIDIA's own client: unary, streamed, repository, health."""

import queue
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as client
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from hanbit import LLM, SamplingParams
from tests.server.asking import PROMPT, inputs, text_of
from tests.server.served import Served

GREEDY = SamplingParams(temperature=0, max_tokens=24)
Answer = tuple[client.InferResult | None, InferenceServerException | None]


@pytest.fixture(scope="module")
def triton(served: Served) -> Iterator[client.InferenceServerClient]:
    with client.InferenceServerClient(served.grpc) as found:
        yield found


@pytest.fixture
def stream(triton: client.InferenceServerClient) -> Iterator[Callable[[], Answer]]:
    """A started stream; the function waits for its next answer."""
    answers: queue.Queue[Answer] = queue.Queue()
    triton.start_stream(callback=lambda result, error: answers.put((result, error)))
    yield lambda: answers.get(timeout=30)
    triton.stop_stream()


def test_server_and_models_say_what_they_are(triton: client.InferenceServerClient) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready("small")
    assert triton.get_server_metadata().name == "hanbit"
    metadata = triton.get_model_metadata("small_model")
    assert metadata.inputs[0].name == "input_ids"
    assert list(metadata.inputs[0].shape) == [-1]
    assert triton.get_model_config("small").config.platform == "ensemble"
    assert len(triton.get_model_repository_index().models) == 6
    assert {one.name for one in triton.get_inference_statistics().model_stats} >= {"small", "tuned"}


def test_infer_gives_the_engines_answer(triton: client.InferenceServerClient, llm: LLM) -> None:
    outputs = [client.InferRequestedOutput("text_output")]
    result = triton.infer("small", inputs(client, max_tokens=24), outputs=outputs, request_id="mine")
    assert text_of(result) == llm.generate([PROMPT], GREEDY)[0].text
    assert result.get_response().id == "mine"
    assert result.as_numpy("finish_reason") is None


def test_typed_contents_are_read_as_raw_ones(served: Served, llm: LLM) -> None:
    request = service_pb2.ModelInferRequest(model_name="small")
    text = request.inputs.add(name="text_input", datatype="BYTES", shape=[1])
    text.contents.bytes_contents.append(PROMPT.encode())
    tokens = request.inputs.add(name="max_tokens", datatype="INT32", shape=[1])
    tokens.contents.int_contents.append(24)
    request.parameters["temperature"].double_param = 0
    with grpc.insecure_channel(served.grpc) as channel:
        found = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request)
    assert found.raw_output_contents[0][4:].decode() == llm.generate([PROMPT], GREEDY)[0].text


def test_streamed_pieces_make_the_whole_answer(
    triton: client.InferenceServerClient, stream: Callable[[], Answer], llm: LLM
) -> None:
    triton.async_stream_infer("small", inputs(client, max_tokens=24, stream=True), request_id="a")
    said, finals = "", []
    while not finals or not finals[-1]:
        result, error = stream()
        assert error is None
        assert result is not None
        said += text_of(result)
        finals.append(result.get_response().parameters["triton_final_response"].bool_param)
        assert result.get_response().id == "a"
    assert said == llm.generate([PROMPT], GREEDY)[0].text
    assert len(finals) == 24


def test_without_the_switch_a_stream_gets_one_whole_answer(
    triton: client.InferenceServerClient, stream: Callable[[], Answer], llm: LLM
) -> None:
    triton.async_stream_infer("small", inputs(client, max_tokens=24), enable_empty_final_response=True)
    result, _ = stream()
    assert result is not None
    assert text_of(result) == llm.generate([PROMPT], GREEDY)[0].text
    assert result.get_response().parameters["triton_final_response"].bool_param


def test_requests_of_one_stream_are_answered_together_and_told_apart(
    triton: client.InferenceServerClient, stream: Callable[[], Answer], llm: LLM
) -> None:
    prompts = {"0": "The", "1": "대한민국은", "2": "lazy dog"}
    for id, prompt in prompts.items():
        asked = inputs(client, text_input=prompt, max_tokens=24, stream=True)
        triton.async_stream_infer("small", asked, request_id=id)
    said = dict.fromkeys(prompts, "")
    num_ended = 0
    while num_ended < len(prompts):
        result, error = stream()
        assert error is None
        assert result is not None
        said[result.get_response().id] += text_of(result)
        num_ended += result.get_response().parameters["triton_final_response"].bool_param
    wanted = llm.generate(list(prompts.values()), GREEDY)
    assert list(said.values()) == [output.text for output in wanted]


def test_an_error_is_a_message_of_the_stream_which_goes_on(
    triton: client.InferenceServerClient, stream: Callable[[], Answer]
) -> None:
    triton.async_stream_infer("nobody", inputs(client), request_id="lost")
    result, error = stream()
    assert error is not None
    assert "there is no model 'nobody'" in error.message()
    triton.async_stream_infer("small", inputs(client, max_tokens=2))
    result, error = stream()
    assert error is None
    assert result is not None


WRONG: dict[str, tuple[Callable[[Any], Any], str, str]] = {
    "unknown model": (lambda r: setattr(r, "model_name", "nobody"), "NOT_FOUND", "no model 'nobody'"),
    "unknown version": (lambda r: setattr(r, "model_version", "7"), "NOT_FOUND", "no version '7'"),
    "unknown input": (lambda r: setattr(r.inputs[0], "name", "txet"), "INVALID_ARGUMENT", "no input 'txet'"),
    "input twice": (lambda r: r.inputs.add().CopyFrom(r.inputs[0]), "INVALID_ARGUMENT", "given twice"),
    "no input": (lambda r: r.ClearField("inputs"), "INVALID_ARGUMENT", "needs the input 'text_input'"),
    "wrong datatype": (lambda r: setattr(r.inputs[0], "datatype", "FP32"), "INVALID_ARGUMENT", "use fp32_contents"),
    "no datatype": (lambda r: setattr(r.inputs[0], "datatype", "TEXT"), "INVALID_ARGUMENT", "no typed contents"),
    "negative dim": (lambda r: r.inputs[0].shape.__setitem__(0, -1), "INVALID_ARGUMENT", "dim -1"),
    "huge dims": (lambda r: r.inputs[0].shape.extend([2**60, 2**60]), "INVALID_ARGUMENT", "dim 1152921504606846976"),
    "too few elements": (lambda r: r.inputs[0].shape.__setitem__(0, 3), "INVALID_ARGUMENT", "3 elements, but 1"),
    "raw and typed": (lambda r: r.raw_input_contents.append(b""), "INVALID_ARGUMENT", "raw_input_contents too"),
    "raw for some": (lambda r: r.raw_input_contents.extend([b"", b""]), "INVALID_ARGUMENT", "2 raw_input_contents"),
    "unknown output": (lambda r: r.outputs.add(name="txet"), "INVALID_ARGUMENT", "no output 'txet'"),
    "unknown parameter": (
        lambda r: setattr(r.parameters["temprature"], "double_param", 1), "INVALID_ARGUMENT", "unknown parameter"
    ),
    "parameter of no value": (lambda r: r.parameters["seed"], "INVALID_ARGUMENT", "'seed' has no value"),
    "shared memory": (
        lambda r: setattr(r.inputs[0].parameters["shared_memory_region"], "string_param", "x"),
        "INVALID_ARGUMENT", "shared_memory_byte_size=None",
    ),
    "not Unicode": (
        lambda r: r.inputs[0].contents.bytes_contents.__setitem__(0, b"\xff"), "INVALID_ARGUMENT", "not UTF-8"
    ),
    "over the context": (
        lambda r: r.inputs[0].contents.bytes_contents.__setitem__(0, b"q1" * 16000), "INVALID_ARGUMENT", "context holds"
    ),
    "two pieces in a unary call": (
        lambda r: setattr(r.parameters["stream"], "bool_param", True), "INVALID_ARGUMENT", "through a stream"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_requests_are_refused_with_the_reason(name: str, served: Served) -> None:
    change, status, words = WRONG[name]
    request = service_pb2.ModelInferRequest(model_name="small")
    request.inputs.add(name="text_input", datatype="BYTES", shape=[1]).contents.bytes_contents.append(b"The")
    change(request)
    with grpc.insecure_channel(served.grpc) as channel, pytest.raises(grpc.RpcError) as raised:
        service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request)
    assert raised.value.code().name == status
    assert words in raised.value.details()
    served.wait_until_idle()


def test_clients_may_not_change_the_models_unless_told(triton: client.InferenceServerClient) -> None:
    for call in (triton.load_model, triton.unload_model):
        with pytest.raises(InferenceServerException, match="--model-control-mode explicit"):
            call("small")


def test_the_standard_health_check_answers(served: Served) -> None:
    with grpc.insecure_channel(served.grpc) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for service in ("", "inference.GRPCInferenceService"):
            found = stub.Check(health_pb2.HealthCheckRequest(service=service))
            assert found.status == health_pb2.HealthCheckResponse.SERVING


def test_a_cancelled_stream_ends_the_work(served: Served, triton: client.InferenceServerClient) -> None:
    answers: queue.Queue[Answer] = queue.Queue()
    triton.start_stream(callback=lambda result, error: answers.put((result, error)))
    triton.async_stream_infer("small", inputs(client, max_tokens=16000, ignore_eos=True, stream=True))
    answers.get(timeout=30)
    assert served.running() == 1
    triton.stop_stream(cancel_requests=True)
    served.wait_until_idle()


def test_a_cancelled_unary_call_ends_the_work(served: Served, triton: client.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="Deadline"):
        triton.infer("small", inputs(client, max_tokens=16000, ignore_eos=True), client_timeout=0.3)
    served.wait_until_idle()


def test_the_deadline_of_a_stream_ends_the_work(served: Served, triton: client.InferenceServerClient) -> None:
    answers: queue.Queue[Answer] = queue.Queue()
    triton.start_stream(callback=lambda result, error: answers.put((result, error)), stream_timeout=0.5)
    triton.async_stream_infer("small", inputs(client, max_tokens=16000, ignore_eos=True, stream=True))
    while (answer := answers.get(timeout=30))[1] is None:
        pass
    assert "Deadline" in str(answer[1])
    served.wait_until_idle()
    triton.stop_stream()


def test_ids_go_in_as_numpy_makes_them(triton: client.InferenceServerClient) -> None:
    ids = client.InferInput("input_ids", [2], "INT32")
    ids.set_data_from_numpy(np.array([5, 99999], dtype=np.int32))
    with pytest.raises(InferenceServerException, match="outside the model's vocabulary"):
        triton.infer("small_model", [ids])

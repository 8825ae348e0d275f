"""Python models answer through real clients, wherever they run: in a process, in a thread, inline."""

import queue
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
from tritonclient.utils import InferenceServerException

from hanbit.bench.three_steps import ENSEMBLE, write_three_steps
from tests.server.asking import Http
from tests.server.python_models.written import COUNT, DECOUPLED, NUMBERS, PLACES, PLUS_ONE, write_model
from tests.server.served import Served, serving

ANY = "\n".join(
    f'input {{ name: "IN_{kind}" data_type: TYPE_{kind} dims: [ -1, 2 ] optional: true }} '
    f'output {{ name: "OUT_{kind}" data_type: TYPE_{kind} dims: [ -1, 2 ] }}'
    for kind in ("BOOL", "UINT8", "INT16", "INT64", "FP16", "FP32", "FP64", "STRING")
)
ECHO = """
def execute(self, requests):
    return [pb_utils.InferenceResponse([pb_utils.Tensor(one.name().replace("IN_", "OUT_"), one.as_numpy())
                                        for one in request.inputs()]) for request in requests]
"""
TELL = """
def initialize(self, args):
    self.args = args

def execute(self, requests):
    found = []
    for request in requests:
        said = {
            "id": request.request_id(), "correlation_id": request.correlation_id(), "flags": request.flags(),
            "timeout": request.timeout(), "parameters": json.loads(request.parameters()),
            "outputs": request.requested_output_names(), "is_cancelled": request.is_cancelled(),
            "args": self.args, "decoupled": pb_utils.using_decoupled_model_transaction_policy(
                json.loads(self.args["model_config"])),
            "type": pb_utils.get_output_config_by_name(json.loads(self.args["model_config"]), "SAID")["data_type"],
        }
        found.append(pb_utils.InferenceResponse([pb_utils.Tensor("SAID", np.array([json.dumps(said)], object))]))
    return found
"""
CHANGE_INPUT = """
def execute(self, requests):
    found = []
    for request in requests:
        x = request.inputs()[0].as_numpy()
        x += 1
        found.append(pb_utils.InferenceResponse([pb_utils.Tensor("Y", x)]))
    return found
"""
LATER = """
def execute(self, requests):
    for request in requests:
        threading.Thread(target=self.answer, args=(request.get_response_sender(), request.inputs()[0].as_numpy()[0])
                         ).start()

def answer(self, sender, count):
    for index in range(count):
        time.sleep(0.01)
        sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("Y", np.array([index], np.int32))]),
                    flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if index == count - 1 else 0)
"""
ASYNC = """
async def execute(self, requests):
    for request in requests:
        count = request.inputs()[0].as_numpy()[0]
        await asyncio.sleep(0.2)
        request.get_response_sender().send(
            pb_utils.InferenceResponse([pb_utils.Tensor("Y", np.array([count], np.int32))]),
            flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
BATCHES = """
def execute(self, requests):
    time.sleep(0.05)
    found = []
    for request in requests:
        x = request.inputs()[0].as_numpy()
        found.append(pb_utils.InferenceResponse([pb_utils.Tensor("Y", x * 0 + len(requests))]))
    return found
"""
WITH_PARAMETERS = """
def execute(self, requests):
    y = pb_utils.Tensor("Y", np.zeros(1, np.int32))
    said = {"count": 3, "is_so": True, "text": "한글"}
    return [pb_utils.InferenceResponse([y], parameters=said) for _ in requests]
"""
OWN_SENDER = """
def execute(self, requests):
    for request in requests:
        request.get_response_sender().send(
            pb_utils.InferenceResponse([pb_utils.Tensor("Y", request.inputs()[0].as_numpy())]),
            flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
BATCHING = "max_batch_size: 8 dynamic_batching { max_queue_delay_microseconds: 100000 preferred_batch_size: [ 4 ] }"
TWO = "instance_group { count: 2 kind: KIND_CPU }"


@pytest.fixture(scope="module", params=PLACES)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder, place = tmp_path_factory.mktemp("models"), request.param
    write_three_steps(folder, place)
    write_model(folder, "plus_one", PLUS_ONE, place=place)
    write_model(folder, "two", PLUS_ONE, f"{NUMBERS} {TWO}", place=place)
    write_model(folder, "echo", ECHO, ANY, place=place)
    write_model(folder, "tell", TELL, f'{NUMBERS} output {{ name: "SAID" data_type: TYPE_STRING dims: [ 1 ] }}', place)
    write_model(folder, "change", CHANGE_INPUT, place=place)
    write_model(folder, "count", COUNT, DECOUPLED, place=place)
    write_model(folder, "later", LATER, DECOUPLED, place=place)
    write_model(folder, "async", ASYNC, DECOUPLED, place=place)
    write_model(folder, "batches", BATCHES, f"{NUMBERS} {BATCHING}", place=place)
    write_model(folder, "with_parameters", WITH_PARAMETERS, place=place)
    write_model(folder, "own_sender", OWN_SENDER, place=place)
    with serving(folder) as found:
        yield found


def tensor(client: Any, name: str, values: np.ndarray, datatype: str = "INT32") -> Any:
    found = client.InferInput(name, list(values.shape), datatype)
    found.set_data_from_numpy(values)
    return found


def numbers(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def streamed(address: str, model: str, count: int, **more: Any) -> list[int]:
    """By a gRPC stream, with the empty last response; raises what the stream says."""
    found: queue.Queue[Any] = queue.Queue()
    with grpc_client.InferenceServerClient(address) as client:
        client.start_stream(lambda result, error: found.put((result, error)))
        inputs = [tensor(grpc_client, "X", numbers(count))]
        client.async_stream_infer(model, inputs, enable_empty_final_response=True, **more)
        values = []
        while True:
            result, error = found.get(timeout=20)
            if error is not None:
                raise error
            response = result.get_response()
            if response.outputs:
                values.append(int(result.as_numpy("Y")[0]))
            if response.parameters["triton_final_response"].bool_param:
                return values


def test_an_ensemble_of_python_models_answers_over_http_and_grpc(served: Served) -> None:
    text = "Hello, 안녕하세요"
    with http_client.InferenceServerClient(served.http) as http, grpc_client.InferenceServerClient(served.grpc) as grpc:
        for client, module in ((http, http_client), (grpc, grpc_client)):
            given = tensor(module, "TEXT", np.array([text.encode()], object), "BYTES")
            result = client.infer(ENSEMBLE, [given])
            assert result.as_numpy("BACK")[0] == text.encode()[::-1]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("BOOL", np.array([[True, False]])),
        ("UINT8", np.array([[0, 255]], np.uint8)),
        ("INT16", np.array([[-(2**15), 7]], np.int16)),
        ("INT64", np.array([[-(2**63), 2**63 - 1]], np.int64)),
        ("FP16", np.array([[np.nan, 65504]], np.float16)),
        ("FP32", np.array([[np.inf, -0.0]], np.float32)),
        ("FP64", np.array([[1e-300, np.nan]], np.float64)),
        ("STRING", np.array([[b"", b"\x00\xff"]], object)),
        ("INT64", np.zeros((0, 2), np.int64)),
        ("FP32", np.random.default_rng(0).random((300_000, 2), np.float32)),  # through shared memory
        ("STRING", np.array([[b"a" * 500_000, "한".encode() * 100_000]], object)),
    ],
)
def test_every_datatype_comes_back_as_it_was_sent(served: Served, kind: str, values: np.ndarray) -> None:
    wire = "BYTES" if kind == "STRING" else kind
    with http_client.InferenceServerClient(served.http) as client:
        for _ in range(3):
            found = client.infer("echo", [tensor(http_client, f"IN_{kind}", values, wire)]).as_numpy(f"OUT_{kind}")
            assert found.shape == values.shape
            assert found.dtype == values.dtype
            assert found.tobytes() == values.tobytes() if kind != "STRING" else (found == values).all()


def test_a_model_is_told_all_that_triton_tells(served: Served) -> None:
    import json

    with http_client.InferenceServerClient(served.http) as client:
        result = client.infer(
            "tell",
            [tensor(http_client, "X", numbers(1))],
            request_id="seven",
            outputs=[http_client.InferRequestedOutput("SAID")],
            sequence_id=5,
            sequence_start=True,
            priority=1,
            timeout=10_000_000,
            parameters={"own": "yes", "many": 3},
        )
    said = json.loads(result.as_numpy("SAID")[0])
    config = json.loads(said["args"].pop("model_config"))
    assert said["args"].pop("model_repository").endswith("/tell")
    assert said == {
        "id": "seven",
        "correlation_id": 5,
        "flags": 1,
        "timeout": 10_000_000,
        "parameters": {"own": "yes", "many": 3},
        "outputs": ["SAID"],
        "is_cancelled": False,
        "decoupled": False,
        "type": "TYPE_STRING",
        "args": {
            "model_instance_kind": "CPU",
            "model_instance_name": "tell_0_0",
            "model_instance_device_id": "0",
            "model_version": "1",
            "model_name": "tell",
        },
    }
    assert config["max_batch_size"] == 0
    assert config["input"][0]["dims"] == [-1]


def test_a_model_may_write_into_its_inputs(served: Served) -> None:
    with http_client.InferenceServerClient(served.http) as client:
        for _ in range(2):
            result = client.infer("change", [tensor(http_client, "X", numbers(1, 2))])
            assert result.as_numpy("Y").tolist() == [2, 3]


@pytest.mark.parametrize("model", ["count", "later"])
def test_a_decoupled_model_gives_any_number_of_responses(served: Served, model: str) -> None:
    assert streamed(served.grpc, model, 5) == [0, 1, 2, 3, 4]


def test_no_response_is_an_answer_too(served: Served) -> None:
    assert streamed(served.grpc, "count", 0) == []


def test_many_responses_come_in_order_as_server_sent_events(served: Served) -> None:
    reply = Http(served.http).ask("/v2/models/count/generate_stream", {"X": 500})
    assert [event["Y"] for event in reply.events()] == list(range(500))


def test_several_responses_without_a_stream_are_refused(served: Served) -> None:
    with http_client.InferenceServerClient(served.http) as client:
        with pytest.raises(InferenceServerException, match="ask it through a stream"):
            client.infer("count", [tensor(http_client, "X", numbers(2))])
        assert client.infer("count", [tensor(http_client, "X", numbers(1))]).as_numpy("Y").tolist() == [0]


def test_coroutines_of_a_decoupled_model_wait_beside_each_other(served: Served) -> None:
    if served.catalogue.find("async").config.parameters["place"].string_value == "thread":
        pytest.skip("its coroutines are the same as in a process")
    with http_client.InferenceServerClient(served.http, concurrency=10) as client:
        began = time.monotonic()
        asked = [client.async_infer("async", [tensor(http_client, "X", numbers(n))]) for n in range(10)]
        assert [one.get_result().as_numpy("Y")[0] for one in asked] == list(range(10))
        assert time.monotonic() - began < 1.5


def test_requests_that_wait_are_executed_as_one_batch(served: Served) -> None:
    with http_client.InferenceServerClient(served.http, concurrency=8) as client:
        values = numbers(1).reshape(1, 1)
        asked = [client.async_infer("batches", [tensor(http_client, "X", values)]) for _ in range(8)]
        sizes = [int(one.get_result().as_numpy("Y")[0, 0]) for one in asked]
        assert max(sizes) == 4
        (found,) = client.get_inference_statistics("batches")["model_stats"]
    assert found["inference_count"] == found["inference_stats"]["success"]["count"] == 8
    batches = {one["batch_size"]: one["compute_infer"]["count"] for one in found["batch_stats"]}
    assert sum(size * count for size, count in batches.items()) == 8
    assert found["execution_count"] == sum(batches.values()) < 8
    queue = found["inference_stats"]["queue"]
    assert queue["count"] == 8
    parts = ("queue", "compute_input", "compute_infer", "compute_output")
    whole = found["inference_stats"]["success"]["ns"]
    assert sum(found["inference_stats"][part]["ns"] for part in parts) == whole


def test_instances_are_as_many_as_the_file_says(served: Served) -> None:
    assert len(served.catalogue.find("two").backend.instances) == 2  # type: ignore[attr-defined]
    with http_client.InferenceServerClient(served.http, concurrency=8) as client:
        asked = [client.async_infer("two", [tensor(http_client, "X", numbers(n))]) for n in range(40)]
        assert [one.get_result().as_numpy("Y")[0] for one in asked] == list(range(1, 41))


def test_parameters_of_a_response_reach_the_client(served: Served) -> None:
    said = {"count": 3, "is_so": True, "text": "한글"}
    with http_client.InferenceServerClient(served.http) as http, grpc_client.InferenceServerClient(served.grpc) as grpc:
        found = http.infer("with_parameters", [tensor(http_client, "X", numbers(1))]).get_response()
        assert found["parameters"] == said
        message = grpc.infer("with_parameters", [tensor(grpc_client, "X", numbers(1))]).get_response()
        values = {name: getattr(one, one.WhichOneof("parameter_choice")) for name, one in message.parameters.items()}
        assert values == said


def test_a_model_that_is_not_decoupled_may_answer_through_its_sender(served: Served) -> None:
    with http_client.InferenceServerClient(served.http) as client:
        assert client.infer("own_sender", [tensor(http_client, "X", numbers(9))]).as_numpy("Y").tolist() == [9]

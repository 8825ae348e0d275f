"""Models of sequences through real clients: running sums, which are wrong as soon as anything is mixed up."""

import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
from onnx import helper, numpy_helper
from tritonclient.utils import InferenceServerException

from tests.server.python_models.written import write_model
from tests.server.served import Served, serving
from tests.server.tensor_models.onnx_files import FLOAT, ONE_THREAD, model_of, value, write

X_Y = """
max_batch_size: 4
input { name: "X" data_type: TYPE_FP32 dims: [ 1 ] } output { name: "Y" data_type: TYPE_FP32 dims: [ 1 ] }
"""
STATE = 'state { input_name: "SUM" output_name: "SUM_OUT" data_type: TYPE_FP32 dims: [ 1 ] INITIAL }'
DIRECT, OLDEST = "direct { }", "oldest { max_candidate_sequences: 8 }"


def sums() -> Any:
    """SUM_OUT = SUM + X; Y is the same."""
    nodes = [
        helper.make_node("Add", ["SUM", "X"], ["SUM_OUT"]),
        helper.make_node("Identity", ["SUM_OUT"], ["Y"]),
    ]
    dims = ["n", 1]
    inputs = [value("X", FLOAT, dims), value("SUM", FLOAT, dims)]
    return model_of(nodes, inputs, [value("Y", FLOAT, dims), value("SUM_OUT", FLOAT, dims)])


def told() -> Any:
    """Y = X + 10 * START + 100 * END + 1000 * READY: what the model was told."""
    names = ("START", "END", "READY")
    weights = [numpy_helper.from_array(np.array([10.0**n], np.float32), f"w{n}") for n in (1, 2, 3)]
    nodes, before = [], "X"
    for number, name in enumerate(names, 1):
        after = "Y" if name == "READY" else f"after{number}"
        nodes += [
            helper.make_node("Mul", [name, f"w{number}"], [f"m{number}"]),
            helper.make_node("Add", [before, f"m{number}"], [after]),
        ]
        before = after
    inputs = [value(name, FLOAT, ["n", 1]) for name in ("X", *names)]
    return model_of(nodes, inputs, [value("Y", FLOAT, ["n", 1])], tuple(weights))


def controls(**kinds: str) -> str:
    return "".join(
        f'control_input {{ name: "{name}" control {{ kind: CONTROL_SEQUENCE_{name} {what} }} }}'
        for name, what in kinds.items()
    )


# remembers by the row of the batch that a sequence has, which is all that `direct` promises
BY_ROW = """
def initialize(self, args):
    self.sums = {}

def execute(self, requests):
    found = []
    for row, request in enumerate(requests):
        names = ("X", "START", "READY", "CORRID")
        x, start, ready, corrid = (pb_utils.get_input_tensor_by_name(request, one).as_numpy()[0, 0] for one in names)
        if ready:
            self.sums[row] = float(x) + (0 if start else self.sums[row])
        y = np.array([[self.sums.get(row, 0)]], np.float32)
        found.append(pb_utils.InferenceResponse([pb_utils.Tensor("Y", y)]))
    return found
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("sequences")
    idle = "max_sequence_idle_microseconds: 20000000"
    two = "instance_group { count: 2 kind: KIND_CPU }"
    for name, how in (("direct", DIRECT), ("oldest", OLDEST)):
        state = STATE.replace("INITIAL", "")
        write(sums(), folder, name, f"{X_Y} {ONE_THREAD} {two} sequence_batching {{ {how} {idle} {state} }}")
    state = STATE.replace("INITIAL", "initial_state { data_type: TYPE_FP32 dims: [ 1 ] data_file: 'hundred' }")
    write(sums(), folder, "hundred", f"{ONE_THREAD} sequence_batching {{ {DIRECT} {idle} {state} }}")
    (folder / "hundred" / "initial_state").mkdir()
    (folder / "hundred" / "initial_state" / "hundred").write_bytes(np.array([100], np.float32).tobytes())
    flags = "fp32_false_true: [ 0, 1 ]"
    what = controls(START=flags, END=flags, READY=flags)
    write(told(), folder, "told", f"{X_Y} {ONE_THREAD} sequence_batching {{ {DIRECT} {what} }}")
    state = STATE.replace("INITIAL", "")
    brief = f"{X_Y} {ONE_THREAD} sequence_batching {{ {DIRECT} max_sequence_idle_microseconds: 300000 {state} }}"
    write(sums(), folder, "brief", brief.replace("max_batch_size: 4", "max_batch_size: 1"))
    flags = "int32_false_true: [ 0, 1 ]"
    what = controls(START=flags, READY=flags, CORRID="data_type: TYPE_UINT64")
    write_model(folder, "by_row", BY_ROW, f"{X_Y} sequence_batching {{ {DIRECT} {idle} {what} }}", place="thread")
    with serving(folder) as found:
        yield found


def ask(client: Any, model: str, x: float, id: Any, start: bool = False, end: bool = False, **more: Any) -> float:
    module = http_client if "http" in type(client).__module__ else grpc_client
    tensor = module.InferInput("X", [1, 1], "FP32")
    tensor.set_data_from_numpy(np.array([[x]], np.float32))
    result = client.infer(model, [tensor], sequence_id=id, sequence_start=start, sequence_end=end, **more)
    assert [one["name"] if isinstance(one, dict) else one.name for one in outputs_of(result)] == ["Y"]
    return result.as_numpy("Y").item()


def outputs_of(result: Any) -> Any:
    response = result.get_response()
    return response["outputs"] if isinstance(response, dict) else response.outputs


@pytest.mark.parametrize("model", ["direct", "oldest", "by_row"])
def test_many_sequences_at_once_each_get_their_own_sums(model: str, served: Served) -> None:
    """24 sequences of 1 to 8 numbers over both protocols, more than have a place."""

    def whole(seed: int) -> None:
        chosen = random.Random(seed)
        numbers = [chosen.randint(1, 1000) for _ in range(chosen.randint(1, 8))]
        module, address = chosen.choice([(http_client, served.http), (grpc_client, served.grpc)])
        id = seed + 1 if model == "by_row" or seed % 2 else f"sequence-{seed}"
        with module.InferenceServerClient(address) as client:
            total = 0
            for place, number in enumerate(numbers):
                total += number
                assert ask(client, model, number, id, place == 0, place == len(numbers) - 1) == total

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(whole, range(24)))
    assert served.catalogue.find(model).backend._sequences.num_sequences == 0  # type: ignore[attr-defined]


def test_a_state_begins_with_what_its_file_says(served: Served) -> None:
    with http_client.InferenceServerClient(served.http) as client:
        assert ask(client, "hundred", 1, 5, start=True) == 101
        assert ask(client, "hundred", 2, 5) == 103
        assert ask(client, "hundred", 7, 5, start=True) == 107  # begins again
        assert ask(client, "hundred", 1, 5, end=True) == 108
        config = client.get_model_config("hundred")
    assert [one["name"] for one in config["input"]] == ["X"]  # completed, without what no client sees
    assert [one["name"] for one in config["output"]] == ["Y"]


def test_models_are_told_begin_end_and_ready(served: Served) -> None:
    with grpc_client.InferenceServerClient(served.grpc) as client:
        assert ask(client, "told", 1, 9, start=True) == 1011
        assert ask(client, "told", 2, 9) == 1002
        assert ask(client, "told", 3, 9, end=True) == 1103
        assert ask(client, "told", 4, 9, start=True, end=True) == 1114


@pytest.mark.parametrize("client", [http_client, grpc_client])
def test_what_is_no_part_of_a_sequence_is_refused(client: Any, served: Served) -> None:
    address = served.http if client is http_client else served.grpc
    with client.InferenceServerClient(address) as asked:
        with pytest.raises(InferenceServerException, match="must have sequence_start"):
            ask(asked, "direct", 1, 77)
        with pytest.raises(InferenceServerException, match="needs a sequence_id"):
            ask(asked, "direct", 1, 0, start=True)
        with pytest.raises(InferenceServerException, match="does not fit UINT64"):
            ask(asked, "by_row", 1, "a text", start=True)


def test_a_sequence_that_is_silent_for_too_long_gives_its_place_away(served: Served) -> None:
    with http_client.InferenceServerClient(served.http) as client:
        assert ask(client, "brief", 1, 1, start=True) == 1
        began = time.monotonic()
        assert ask(client, "brief", 5, 2, start=True, end=True) == 5  # waits for the only slot
        assert time.monotonic() - began > 0.2
        with pytest.raises(InferenceServerException, match="must have sequence_start"):
            ask(client, "brief", 1, 1)


def test_a_request_that_is_withdrawn_takes_what_follows_it_along(served: Served) -> None:
    def fails(with_status: str, **more: Any) -> None:
        with (
            http_client.InferenceServerClient(served.http) as client,
            pytest.raises(InferenceServerException) as caught,
        ):
            ask(client, "brief", 7, 22, **more)
        assert caught.value.status() == with_status

    with http_client.InferenceServerClient(served.http) as client, ThreadPoolExecutor(2) as pool:
        assert ask(client, "brief", 1, 21, start=True) == 1  # has the only slot
        works = [pool.submit(fails, "504", start=True, timeout=100_000)]
        time.sleep(0.03)
        works.append(pool.submit(fails, "400"))
        for work in works:
            work.result()
        assert served.catalogue.find("brief").backend.num_waiting == 0  # type: ignore[attr-defined]
        assert ask(client, "brief", 2, 21, end=True) == 3
        assert ask(client, "brief", 4, 22, start=True, end=True) == 4


def test_models_of_sequences_are_warmed_up_too(tmp_path: Path) -> None:
    warm = 'model_warmup { name: "w" inputs { key: "X" value { data_type: TYPE_FP32 dims: [ 1 ] random_data: true } } }'
    two = "instance_group { count: 2 kind: KIND_CPU }"
    state = STATE.replace("INITIAL", "")
    write(sums(), tmp_path, "warm", f"{X_Y} {ONE_THREAD} {two} sequence_batching {{ {DIRECT} {state} }} {warm}")
    with serving(tmp_path) as found, http_client.InferenceServerClient(found.http) as client:
        instances = found.catalogue.find("warm").backend.instances  # type: ignore[attr-defined]
        assert [one.num_batches for one in instances] == [1, 1]
        assert ask(client, "warm", 3, 1, start=True) == 3
        assert "sequence(string_id)" in client.get_server_metadata()["extensions"]


def test_bad_sequence_models_are_refused_by_name(tmp_path: Path) -> None:
    state = STATE.replace("INITIAL", "")
    bad = {
        "iterative": (f"{X_Y} sequence_batching {{ iterative_sequence: true {state} }}", "iterative_sequence"),
        "candidates": (f"{X_Y} sequence_batching {{ oldest {{ }} {state} }}", "max_candidate_sequences: 0"),
        "flags": (f"{X_Y} sequence_batching {{ {controls(START='')} {state} }}", "needs one of int32_false_true"),
        "stateless": (f"{X_Y} sequence_batching {{ {DIRECT} }}", "needs the input 'SUM'"),
        "file": (f"{X_Y} sequence_batching {{ {STATE.replace('INITIAL', FILE)} }}", "must be the name of a file"),
        "dims": (f"{X_Y} sequence_batching {{ {STATE.replace('INITIAL', DIMS)} }}", "does not fit"),
    }
    for name, (config, _) in bad.items():
        write(sums(), tmp_path, name, config)
    with serving(tmp_path, fail_if_a_model_fails=False) as found:
        index = {line.name: line for line in found.catalogue.index()}
    for name, (_, says) in bad.items():
        assert index[name].state == "UNAVAILABLE", name
        assert says in index[name].reason, (name, index[name].reason)


FILE = 'initial_state { data_type: TYPE_FP32 dims: [ 1 ] data_file: "../config.pbtxt" }'
DIMS = "initial_state { data_type: TYPE_FP32 dims: [ 2 ] zero_data: true }"

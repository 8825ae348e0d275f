"""ONNX models answer through real clients with what numpy computes; what is wrong is refused by name."""

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
from onnx import TensorProto, helper
from tritonclient.utils import InferenceServerException

from tests.server.served import Served, serving
from tests.server.tensor_models.onnx_files import (
    FLOAT,
    INT64,
    ONE_THREAD,
    STRING,
    WEIGHTS,
    gather,
    identities,
    matmul,
    model_of,
    reading,
    slow,
    value,
    write,
)

FIXED = f"""
platform: "onnxruntime_onnx"
max_batch_size: 8
input {{ name: "X" data_type: TYPE_FP32 dims: [ 3 ] }}
output {{ name: "Y" data_type: TYPE_FP32 dims: [ 4 ] }}
dynamic_batching {{ preferred_batch_size: [ 8 ] max_queue_delay_microseconds: 200000 }}
{ONE_THREAD}
"""
KINDS = {
    "BOOL": TensorProto.BOOL, "UINT8": TensorProto.UINT8, "INT16": TensorProto.INT16, "INT64": INT64,
    "FP16": TensorProto.FLOAT16, "FP32": FLOAT, "FP64": TensorProto.DOUBLE, "BYTES": STRING,
}  # fmt: skip


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnx")
    write(matmul(), folder, "silent")
    write(matmul(), folder, "batched", FIXED)
    write(identities(**KINDS), folder, "kinds", ONE_THREAD)
    write(gather(), folder, "table", ONE_THREAD + "dynamic_batching { max_queue_delay_microseconds: 100000 }")
    write(slow(), folder, "slow", 'backend: "onnxruntime"' + ONE_THREAD)
    nodes = [helper.make_node("ReduceSum", ["X"], ["Y"], keepdims=0)]
    write(model_of(nodes, [value("X", FLOAT, [2, 3])], [value("Y", FLOAT, [])]), folder, "single", ONE_THREAD)
    nodes = [helper.make_node("Identity", ["X"], ["Y"])]
    write(
        model_of(nodes, [value("X", FLOAT, ["n", 2, "m"])], [value("Y", FLOAT, ["n", 2, "m"])]),
        folder,
        "reshaped",
        "max_batch_size: 4 input { name: 'X' data_type: TYPE_FP32 dims: [ -1, 2 ] reshape { shape: [ 2, -1 ] } } "
        "output { name: 'Y' data_type: TYPE_FP32 dims: [ 2, -1, 1 ] reshape { shape: [ 2, -1 ] } }" + ONE_THREAD,
    )
    both = folder / "external" / "1"
    both.mkdir(parents=True)
    onnx.save_model(matmul(), both / "model.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    return folder


@pytest.fixture(scope="module")
def served(repository: Path) -> Iterator[Served]:
    with serving(repository) as found:
        yield found


def asked(client: Any, datatype: str = "FP32", **arrays: Any) -> list[Any]:
    found = []
    for one, data in arrays.items():
        tensor = client.InferInput(one, list(data.shape), datatype)
        tensor.set_data_from_numpy(data)
        found.append(tensor)
    return found


def rows(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 3)).astype(np.float32)


def infer(address: str, model: str, data: np.ndarray, datatype: str = "FP32") -> np.ndarray:
    with http_client.InferenceServerClient(address) as client:
        return client.infer(model, asked(http_client, datatype, X=data)).as_numpy("Y")


def test_a_model_without_a_configuration_says_all_of_itself(served: Served) -> None:
    with http_client.InferenceServerClient(served.http) as client:
        config = client.get_model_config("silent")
        metadata = client.get_model_metadata("silent")
    assert config["backend"] == "onnxruntime"
    assert config["platform"] == "onnxruntime_onnx"
    assert config["default_model_filename"] == "model.onnx"
    assert config["max_batch_size"] == 4
    assert "dynamic_batching" in config
    assert config["instance_group"][0]["kind"] == "KIND_CPU"
    assert [(one["name"], one["data_type"], one["dims"]) for one in config["input"]] == [("X", "TYPE_FP32", [3])]
    assert [(one["name"], one["data_type"], one["dims"]) for one in config["output"]] == [("Y", "TYPE_FP32", [4])]
    assert metadata["platform"] == "onnxruntime_onnx"
    assert metadata["inputs"] == [{"name": "X", "datatype": "FP32", "shape": [-1, 3]}]
    data = rows(3)
    np.testing.assert_allclose(infer(served.http, "silent", data), data @ WEIGHTS, rtol=1e-5)


@pytest.mark.parametrize("client", [http_client, grpc_client])
@pytest.mark.parametrize("model", ["batched", "external"])
def test_answers_are_those_of_numpy(model: str, client: Any, served: Served) -> None:
    address = served.http if client is http_client else served.grpc
    data = rows(2)
    with client.InferenceServerClient(address) as found:
        result = found.infer(model, asked(client, X=data))
    np.testing.assert_allclose(result.as_numpy("Y"), data @ WEIGHTS, rtol=1e-5)


def test_requests_that_wait_are_joined_and_shared_out_again(served: Served) -> None:
    before = executions(served, "batched")
    sizes = [1, 2, 1, 3, 1]
    with ThreadPoolExecutor(len(sizes)) as pool:
        works = [pool.submit(infer, served.http, "batched", rows(size, seed)) for seed, size in enumerate(sizes)]
        for seed, (size, work) in enumerate(zip(sizes, works, strict=True)):
            np.testing.assert_allclose(work.result(), rows(size, seed) @ WEIGHTS, rtol=1e-5)
    runs = served.catalogue.find("batched").backend.instances[0]  # type: ignore[attr-defined]
    assert runs.num_batches - before < len(sizes)


def executions(served: Served, model: str) -> int:
    return served.catalogue.find(model).backend.instances[0].num_batches  # type: ignore[attr-defined]


@pytest.mark.parametrize("binary", [True, False])
def test_every_datatype_goes_through(binary: bool, served: Served) -> None:
    arrays = {
        "BOOL": np.array([[True, False]]),
        "UINT8": np.array([[0, 255]], np.uint8),
        "INT16": np.array([[-32768, 7]], np.int16),
        "INT64": np.array([[-(2**62), 3]]),
        "FP16": np.array([[0.5, -2]], np.float16),
        "FP32": np.array([[1.5, np.inf]], np.float32),
        "FP64": np.array([[1e300, -0.0]]),
        "BYTES": np.array([["한빛".encode(), b""]], np.object_),
    }
    inputs = []
    for kind, array in arrays.items():
        tensor = http_client.InferInput(f"IN_{kind}", list(array.shape), kind)
        tensor.set_data_from_numpy(array, binary_data=binary or kind in ("FP16", "FP32"))
        inputs.append(tensor)
    with http_client.InferenceServerClient(served.http) as client:
        result = client.infer("kinds", inputs)
    for kind, array in arrays.items():
        np.testing.assert_array_equal(result.as_numpy(f"OUT_{kind}"), array)


def test_bytes_that_are_no_text_are_refused(served: Served) -> None:
    arrays = {kind: np.zeros((1, 2), helper.tensor_dtype_to_np_dtype(one)) for kind, one in KINDS.items()}
    inputs = []
    for kind, array in arrays.items():
        tensor = http_client.InferInput(f"IN_{kind}", [1, 2], kind)
        tensor.set_data_from_numpy(np.array([[b"\xff", b""]], np.object_) if kind == "BYTES" else array)
        inputs.append(tensor)
    with http_client.InferenceServerClient(served.http) as client, pytest.raises(InferenceServerException) as caught:
        client.infer("kinds", inputs)
    assert caught.value.status() == "400"
    assert "not UTF-8" in caught.value.message()


def test_a_single_value_is_one_dim_for_clients(served: Served) -> None:
    data = rows(2)
    found = infer(served.http, "single", data)
    assert found.shape == (1,)
    np.testing.assert_allclose(found[0], data.sum(), rtol=1e-5)


def test_inputs_and_outputs_are_reshaped(served: Served) -> None:
    data = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    found = infer(served.http, "reshaped", data)
    assert found.shape == (2, 2, 3, 1)
    np.testing.assert_array_equal(found.ravel(), data.ravel())


def test_nobody_pays_for_anothers_bad_input(served: Served) -> None:
    def ask(index: int) -> Any:
        try:
            return infer(served.http, "table", np.array([[index]]), "INT64").item()
        except InferenceServerException as problem:
            return problem.status()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, [1, 99, 2, 3])) == [11, "400", 12, 13]


def test_the_event_loop_goes_on_while_a_model_computes(served: Served) -> None:
    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(infer, served.http, "slow", np.zeros((1, 1), np.float32))
        time.sleep(0.05)
        for _ in range(5):
            infer(served.http, "silent", rows(1))
        assert not work.done()
        assert work.result().item() == 300_000


def test_only_the_wanted_outputs_come(served: Served) -> None:
    with http_client.InferenceServerClient(served.http) as client:
        result = client.infer("batched", asked(http_client, X=rows(1)), outputs=[http_client.InferRequestedOutput("Y")])
    assert [one["name"] for one in result.get_response()["outputs"]] == ["Y"]


BAD = {
    "missing": (None, 'backend: "onnxruntime"', "model.onnx is missing"),
    "junk": (b"junk", None, "is no ONNX file"),
    "empty": (b"", None, "is empty"),
    "graphless": (b"\x08\x09", None, "no model that can be loaded"),
    "wrong_input": (
        matmul(), "input { name: 'Q' data_type: TYPE_FP32 dims: [ 3 ] } max_batch_size: 2", "no input 'Q'; it has X",
    ),
    "wrong_output": (
        matmul(), "output { name: 'Q' data_type: TYPE_FP32 dims: [ 4 ] } max_batch_size: 2", "has no output 'Q'",
    ),
    "wrong_datatype": (
        matmul(), "input { name: 'X' data_type: TYPE_INT64 dims: [ 3 ] } max_batch_size: 2", "is INT64 in config.pbtxt",
    ),
    "wrong_dims": (
        matmul(), "input { name: 'X' data_type: TYPE_FP32 dims: [ 5 ] } max_batch_size: 2", r"has dims \[-1, 5\]",
    ),
    "open_dim": (
        matmul(), "input { name: 'X' data_type: TYPE_FP32 dims: [ -1 ] } max_batch_size: 2", r"has dims \[-1, -1\]",
    ),
    "no_batches": (matmul(batch=1), "max_batch_size: 8", "takes no batches"),
    "no_such_level": (matmul(), "optimization { graph { level: 7 } }", "level: 7"),
    "bad_threads": (
        matmul(), "parameters { key: 'intra_op_thread_count' value { string_value: 'all' } }", "intra_op_thread_count",
    ),
    "on_gpu": (matmul(), "instance_group { kind: KIND_GPU }", "KIND_GPU"),
    "accelerated": (
        matmul(), "optimization { execution_accelerators { cpu_execution_accelerator { name: 'magic' } } }", "'magic'",
    ),
    "openvino": (
        matmul(), "optimization { execution_accelerators { cpu_execution_accelerator { name: 'openvino' } } }",
        "OpenVINOExecutionProvider",
    ),
    "operations": (matmul(), "model_operations { op_library_filename: 'evil.so' }", "no code of its own"),
    "file_above": (matmul(), "default_model_filename: '../model.onnx'", "the name of a file"),
    "two_names": (matmul(), "backend: 'python' platform: 'onnxruntime_onnx'", "is backend 'onnxruntime'"),
    "odd_platform": (matmul(), "platform: 'caffe2'", "there is no platform 'caffe2'"),
    "decoupled": (matmul(), "model_transaction_policy { decoupled: true }", "one response"),
}  # fmt: skip


def test_bad_models_are_refused_by_name(tmp_path: Path) -> None:
    for name, (model, config, _) in BAD.items():
        if isinstance(model, onnx.ModelProto):
            write(model, tmp_path, name, config)
            continue
        (tmp_path / name / "1").mkdir(parents=True)
        if model is not None:
            (tmp_path / name / "1" / "model.onnx").write_bytes(model)
        if config is not None:
            (tmp_path / name / "config.pbtxt").write_text(config)
    (tmp_path / "outside" / "1").mkdir(parents=True)
    (tmp_path / "secret.bin").write_bytes(bytes(48))
    reading("../../secret.bin", tmp_path / "outside" / "1")
    write(matmul(), tmp_path, "good")
    with serving(tmp_path, fail_if_a_model_fails=False) as served:
        with http_client.InferenceServerClient(served.http) as client:
            index = {line["name"]: line for line in client.get_model_repository_index()}
        assert index["good"]["state"] == "READY"
    for name, says in {"outside": "outside its folder", **{name: one[2] for name, one in BAD.items()}}.items():
        assert index[name]["state"] == "UNAVAILABLE", name
        assert re.search(says, index[name]["reason"]), (name, index[name]["reason"])
        assert name in index[name]["reason"]


def test_without_completion_every_configuration_must_be_whole(tmp_path: Path) -> None:
    write(matmul(), tmp_path, "silent")
    write(matmul(), tmp_path, "partial", 'backend: "onnxruntime" max_batch_size: 2')
    write(matmul(), tmp_path, "nameless", FIXED.replace('platform: "onnxruntime_onnx"', ""))
    write(matmul(), tmp_path, "whole", FIXED + 'default_model_filename: "model.onnx"')
    with serving(tmp_path, fail_if_a_model_fails=False, completes_configs=False) as served:
        with http_client.InferenceServerClient(served.http) as client:
            index = {line["name"]: line for line in client.get_model_repository_index()}
        np.testing.assert_allclose(infer(served.http, "whole", rows(1)), rows(1) @ WEIGHTS, rtol=1e-5)
    assert "config.pbtxt is missing" in index["silent"]["reason"]
    assert "needs the input" in index["partial"]["reason"]
    assert "name a backend" in index["nameless"]["reason"]

"""`triton_python_backend_utils` by itself: datatypes as tritonclient has them, DLPack with PyTorch, what is refused."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from tritonclient.grpc.model_config_pb2 import DataType
from tritonclient.utils import deserialize_bytes_tensor, np_to_triton_dtype, serialize_byte_tensor

from hanbit.server.python_models import triton_python_backend_utils as pb_utils
from hanbit.server.python_models.api_tensor import datatype_of, raw_of_tensor
from hanbit.server.python_models.datatypes import array_of

KINDS = ("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64")


@pytest.mark.parametrize("kind", KINDS)
def test_datatypes_are_those_of_tritons_enum_and_client(kind: str) -> None:
    number = DataType.Value(f"TYPE_{kind}")
    dtype = pb_utils.triton_to_numpy_type(number)
    assert np_to_triton_dtype(np.dtype(dtype)) == kind
    assert pb_utils.numpy_to_triton_type(dtype) == number
    assert np.dtype(pb_utils.triton_string_to_numpy(f"TYPE_{kind}")) == np.dtype(dtype)
    assert pb_utils.Tensor("x", np.zeros(2, dtype)).triton_dtype() == number


def test_texts_are_objects_and_bytes_as_with_tritons_client() -> None:
    array = np.array([["a", b"\x00\xff"], ["한글", ""]], object)
    tensor = pb_utils.Tensor("x", array)
    assert tensor.triton_dtype() == DataType.TYPE_STRING
    assert pb_utils.triton_string_to_numpy("TYPE_STRING") is np.object_
    raw = bytes(raw_of_tensor(tensor))
    assert raw == serialize_byte_tensor(array).item()
    assert pb_utils.serialize_byte_tensor(array) == raw
    assert list(pb_utils.deserialize_bytes_tensor(raw)) == list(deserialize_bytes_tensor(raw))
    assert bytes(raw_of_tensor(pb_utils.Tensor("x", np.array([b"abc", b"d"])))) == b"\3\0\0\0abc\1\0\0\0d"


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.uint8, torch.float16, torch.bool, torch.bfloat16])
def test_tensors_of_pytorch_come_and_go_without_a_copy(dtype: torch.dtype) -> None:
    given = torch.arange(6).reshape(2, 3).to(dtype)
    for source in (given, torch.utils.dlpack.to_dlpack(given)):
        tensor = pb_utils.Tensor.from_dlpack("x", source)
        assert tensor.is_cpu()
        assert tensor.shape() == [2, 3]
        back = torch.utils.dlpack.from_dlpack(tensor.to_dlpack())
        assert back.dtype == dtype
        assert torch.equal(back, given)
        assert back.data_ptr() == given.data_ptr()
        raw = bytes(raw_of_tensor(tensor))
        assert raw == given.contiguous().view(torch.uint8).numpy().tobytes()
    if dtype is not torch.bfloat16:
        assert tensor.as_numpy().tolist() == given.tolist()


def test_bfloat16_is_for_dlpack_only() -> None:
    bits = np.array([0x3F80, 0xC000], np.uint16)
    tensor = pb_utils.Tensor._made("x", "BF16", array_of("BF16", [2], memoryview(bits.tobytes())).copy())
    assert datatype_of(tensor) == "BF16"
    assert torch.from_dlpack(tensor).tolist() == [1.0, -2.0]
    with pytest.raises(pb_utils.TritonModelException, match="use to_dlpack"):
        pb_utils.Tensor._made("x", "BF16", bits).as_numpy()


def test_what_is_not_contiguous_is_refused_from_dlpack_and_sent_in_order_else() -> None:
    with pytest.raises(pb_utils.TritonModelException, match="not contiguous"):
        pb_utils.Tensor.from_dlpack("x", torch.arange(6).reshape(2, 3).T)
    array = np.arange(6, dtype=np.int32).reshape(2, 3).T
    assert bytes(raw_of_tensor(pb_utils.Tensor("x", array))) == np.ascontiguousarray(array).tobytes()


def test_an_array_that_may_not_be_written_is_copied_once() -> None:
    tensor = pb_utils.Tensor("x", np.frombuffer(b"\1\0\0\0", np.int32))
    array = tensor.as_numpy()
    array += 1
    assert tensor.as_numpy()[0] == 2


def test_responses_errors_and_configurations_are_read_as_with_triton() -> None:
    y = pb_utils.Tensor("Y", np.zeros(1, np.float32))
    response = pb_utils.InferenceResponse(output_tensors=[y], parameters={"a": 1})
    assert pb_utils.get_output_tensor_by_name(response, "Y") is y
    assert pb_utils.get_output_tensor_by_name(response, "Z") is None
    assert not response.has_error()
    assert json.loads(response.parameters()) == {"a": 1}
    failed = pb_utils.InferenceResponse(error=pb_utils.TritonError("why"))
    assert failed.has_error()
    assert (failed.error().message(), failed.error().code()) == ("why", pb_utils.TritonError.INTERNAL)
    assert str(pb_utils.TritonModelException("words")) == pb_utils.TritonModelException("words").message() == "words"
    config = {"input": [{"name": "X"}], "output": [], "model_transaction_policy": {"decoupled": True}}
    assert pb_utils.get_input_config_by_name(config, "X") == {"name": "X"}
    assert pb_utils.get_output_config_by_name(config, "X") is None
    assert pb_utils.using_decoupled_model_transaction_policy(config)
    assert not pb_utils.using_decoupled_model_transaction_policy({})


def test_outside_a_server_nobody_can_be_asked() -> None:
    code = """
import numpy as np
from hanbit.server.python_models import triton_python_backend_utils as pb_utils
request = pb_utils.InferenceRequest(model_name="m", requested_output_names=[], inputs=[])
try: request.exec()
except pb_utils.TritonModelException as problem: print(problem)
import sys
assert not {"torch", "grpc", "tritonclient"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "this is possible only inside a server\n"

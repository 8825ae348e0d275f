"""Tensors on the wire: the same bytes as tritonclient's, the same numbers back, and nothing that does not add up."""

import contextlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.utils import (
    deserialize_bytes_tensor,
    serialize_byte_tensor,
    triton_to_np_dtype,
)

from hanbit.server.errors import RequestError
from hanbit.server.tensors import DATATYPES, Tensor, from_list, from_raw, to_list, to_raw

NUMBERS = [name for name in DATATYPES if name not in ("BYTES", "BF16", "BOOL")]


def sample(datatype: str) -> np.ndarray:
    random = np.random.default_rng(0)
    dtype = np.dtype(triton_to_np_dtype(datatype))
    bits = random.integers(0, 256, 24 * dtype.itemsize, dtype=np.uint8).tobytes()
    found = np.frombuffer(bits, dtype).reshape(2, 3, 4)
    return np.nan_to_num(found) if dtype.kind == "f" else found


@pytest.mark.parametrize("datatype", NUMBERS)
def test_numbers_go_and_come_as_numpy_has_them(datatype: str) -> None:
    array = sample(datatype)
    read = from_raw("x", datatype, [2, 3, 4], array.tobytes())
    assert np.array_equal(read.data, array)
    assert to_raw(read) == array.tobytes()
    assert np.array_equal(from_list("x", datatype, [2, 3, 4], array.tolist()).data, array)
    assert to_list(read) == array.ravel().tolist()


def test_truth_values_are_a_byte_each() -> None:
    read = from_raw("x", "BOOL", [3], b"\0\1\1")
    assert read.data.tolist() == [False, True, True]
    assert to_raw(read) == b"\0\1\1"


@given(st.lists(st.floats(width=32), min_size=1, max_size=20))
def test_bfloat16_goes_and_comes_as_torch_has_it(values: list[float]) -> None:
    array = np.array(values, dtype=np.float32)
    theirs = torch.from_numpy(array).bfloat16()
    raw = to_raw(Tensor("x", "BF16", (len(array),), array))
    assert np.array_equal(from_raw("x", "BF16", [len(array)], raw).data, theirs.float().numpy(), equal_nan=True)
    if not np.isnan(array).any():  # there are many NaNs
        assert raw == theirs.view(torch.int16).numpy().tobytes()


@given(st.lists(st.binary(max_size=9), max_size=6))
def test_bytes_go_and_come_as_tritonclient_has_them(items: list[bytes]) -> None:
    array = np.array([*items, b""], dtype=np.object_)
    raw = serialize_byte_tensor(array).item()
    read = from_raw("x", "BYTES", [len(array)], raw)
    assert list(read.data) == list(array)
    assert to_raw(read) == raw
    assert list(deserialize_bytes_tensor(to_raw(read))) == list(array)


@given(st.binary(max_size=40), st.integers(0, 2**40))
def test_any_bytes_are_a_tensor_or_an_error(raw: bytes, count: int) -> None:
    for datatype in DATATYPES:
        with contextlib.suppress(RequestError):
            assert from_raw("x", datatype, [count], raw).data.shape == (count,)


def test_a_shape_with_a_zero_holds_nothing() -> None:
    for datatype in DATATYPES:
        assert from_raw("x", datatype, [0, 2**31 - 1], b"").data.size == 0
        assert from_list("x", datatype, [0], []).data.size == 0


def test_nested_lists_are_row_major() -> None:
    assert from_list("x", "INT8", [2, 2], [[1, 2], [3, 4]]).data.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("values", [["1"], [None], [[1]], [1.0], [True], [2**31], [{}]])
def test_elements_of_another_kind_are_refused(values: list[object]) -> None:
    with pytest.raises(RequestError):
        from_list("x", "INT32", [1], values)


def test_nan_and_infinities_are_numbers() -> None:
    values = [float("nan"), float("inf"), float("-inf"), 0]
    assert np.array_equal(from_list("x", "FP32", [4], values).data, np.array(values, np.float32), equal_nan=True)

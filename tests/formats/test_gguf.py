"""The GGUF reader against the package `gguf`'s own, and against headers that lie: each a FormatError, at no cost."""

import struct
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hanbit.common.errors import FormatError
from hanbit.formats.gguf.file import GGUFFile
from tests.formats.gguf_bytes import (
    ARRAY,
    BOOL,
    F32,
    I32,
    Q4_1,
    TEXT,
    U8,
    U32,
    U64,
    array,
    key,
    tensor,
    text,
    whole,
)  # fmt: skip

HUGE = 2**62
KINDS = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every kind of value, and a tensor of every kind that `gguf` can write."""
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint8("u8", 250)
    writer.add_int8("i8", -5)
    writer.add_uint16("u16", 65000)
    writer.add_int16("i16", -3000)
    writer.add_uint32("u32", 2**32 - 1)
    writer.add_int32("i32", -(2**31))
    writer.add_uint64("u64", 2**64 - 1)
    writer.add_int64("i64", -(2**63))
    writer.add_float32("f32", 0.5)
    writer.add_float64("f64", 0.1)
    writer.add_bool("yes", True)
    writer.add_string("text", "대한민국 🙂")
    writer.add_array("texts", ["a", "", "Ġ 나"])
    writer.add_array("counts", [1, 2, 3])
    writer.add_array("parts", [0.5, -1.5])
    writer.add_array("truths", [True, False])
    random = np.random.default_rng(0)
    for kind in KINDS:
        type = gguf.GGMLQuantizationType[kind]
        numbers = random.standard_normal((6, 64), dtype=np.float32)
        writer.add_tensor(kind, gguf.quantize(numbers, type), raw_dtype=type)
    writer.add_tensor("vector", random.standard_normal(7, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_metadata_and_tensors_are_what_the_packages_reader_finds(small: Path) -> None:
    ours, theirs = GGUFFile(small), gguf.GGUFReader(small)
    keys = [name for name in theirs.fields if not name.startswith("GGUF.")]
    assert list(ours.metadata) == keys
    for name in keys:
        value = ours.metadata[name]
        assert (value.tolist() if isinstance(value, np.ndarray) else value) == theirs.fields[name].contents(), name
    assert list(ours.places) == [one.name for one in theirs.tensors]
    for one in theirs.tensors:
        place = ours.places[one.name]
        assert place.shape == tuple(reversed(one.shape.tolist()))
        assert place.offset_bytes == one.data_offset
        wanted = gguf.dequantize(one.data, one.tensor_type)
        np.testing.assert_array_equal(ours.numbers(one.name), wanted)
        assert ours.numbers(one.name).shape == place.shape
        assert ours.blocks(one.name).tobytes() == one.data.tobytes()


def test_tensors_without_a_float_reading_are_refused_by_type(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(whole([], [tensor("positions", [4], 26)], bytes(16)))
    with pytest.raises(FormatError, match="'positions' is I32, which has no float32 reading"):
        GGUFFile(path).numbers("positions")


ONE = [tensor("a", [32])]
LIES: list[tuple[bytes, str]] = [
    (b"", "is empty"),
    (b"GGUF\3\0\0\0", "a GGUF header needs 24 bytes"),
    (whole([], [], magic=b"GGML"), "starts with b'GGML', a GGUF file with b'GGUF'"),
    (whole([], [], version=1), "GGUF of version 0x1: versions 2 and 3"),
    (whole([], [], version=3 << 24), "it is big-endian"),
    (whole([], [], num_keys=2**64 - 1), "the number of keys is 18446744073709551615, at most"),
    (whole([], [], num_keys=60_000), "what its header announces needs 840000 bytes at byte 24, the file has 8 there"),
    (whole([], [], num_tensors=HUGE), f"the number of tensors is {HUGE}"),
    (whole([struct.pack("<Q", HUGE)], [], bytes(64)), f"the length of key 0 is {HUGE}"),
    (whole([struct.pack("<Q", 60_000)], [], bytes(64)), "key 0 needs 60000 bytes at byte 32"),
    (whole([key(b"\xff\xfe", U8, b"\1")], []), r"key 0 is not UTF-8: b'\\xff\\xfe'"),
    (whole([key("a", U8, b"\1"), key("a", U8, b"\1")], []), "the key 'a' is there twice"),
    (whole([key("a", 13, b"\1")], []), "the value of 'a' is of type 13, known are 0 to 12"),
    (whole([key("a", BOOL, b"\7")], []), "the value of 'a' is 7, at most 1"),
    (whole([key("a", TEXT, struct.pack("<Q", HUGE))], []), "the length of the value of 'a' is"),
    (whole([key("a", TEXT, text(b"\xc3"))], []), "the value of 'a' is not UTF-8"),
    (whole([key("a", ARRAY, array(TEXT, HUGE))], []), "the length of the value of 'a' is"),
    (whole([key("a", ARRAY, array(TEXT, 50))], []), "the value of 'a' needs 400 bytes"),
    (whole([key("a", ARRAY, array(U64, 50))], []), "the value of 'a' needs 400 bytes"),
    (whole([key("a", ARRAY, array(ARRAY, 1, array(U8, 1, b"\1")))], []), "an array of arrays, which is not read"),
    (whole([key("a", ARRAY, array(99, 1))], []), "the value of 'a' is of type 99"),
    (whole([key("general.alignment", U32, struct.pack("<I", 0))], []), "alignment=0 must be a power of two"),
    (whole([key("general.alignment", U32, struct.pack("<I", 48))], []), "alignment=48 must be a power of two"),
    (whole([key("general.alignment", U32, struct.pack("<I", 1 << 31))], []), "alignment=2147483648 must be"),
    (whole([key("general.alignment", I32, struct.pack("<i", -32))], []), "alignment=-32 must be"),
    (whole([key("general.alignment", TEXT, text("32"))], []), "alignment='32' must be"),
    (whole([key("general.alignment", F32, struct.pack("<f", 32))], []), "alignment=32.0 must be"),
    (whole([], [tensor("a", [1] * 5)], bytes(64)), "the number of dims of tensor 'a' is 5, at most 4"),
    (whole([], [tensor("a", [1], num_dims=2**32 - 1)], bytes(64)), "the number of dims of tensor 'a' is 4294967295"),
    (whole([], [tensor("a", [])], bytes(64)), r"tensor 'a' has dims \[\]: it is empty"),
    (whole([], [tensor("a", [4, 0])], bytes(64)), r"tensor 'a' has dims \[4, 0\]: it is empty"),
    (whole([], [tensor("a", [2**63])], bytes(64)), "a dim of tensor 'a' is 9223372036854775808"),
    (whole([], [tensor("a", [2**32, 2**32])], bytes(64)), "needs 73786976294838206464 bytes"),  # 0 in 64 bits
    (whole([], [tensor("a", [2**62, 4, 4, 4])], bytes(64)), "the file has 160. It is truncated or lies"),
    (whole([], [tensor("a", [32], 77)], bytes(128)), "tensor 'a' is of type 77, which this hanbit does not know"),
    (whole([], [tensor("a", [33], Q4_1)], bytes(128)), "rows that are no multiple of its blocks of 32"),
    (whole([], [tensor("a", [32], offset=8)], bytes(192)), "lies at 8, which is no multiple of the alignment 32"),
    (whole([], [tensor("a", [32], offset=HUGE)], bytes(128)), "the offset of tensor 'a' is"),
    (whole([], [tensor("a", [32], offset=32)], bytes(128)), "needs 128 bytes at byte 96, the file has 192"),
    (whole([], ONE * 2, bytes(256)), "two tensors are called 'a'"),
    (whole([], [*ONE, tensor("b", [32], offset=96)], bytes(256)), "tensors 'a' and 'b' lie over each other"),
    (whole([], [*ONE, tensor("b", [8])], bytes(256)), "lie over each other"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "message"), LIES, ids=lambda value: value[:50] if isinstance(value, str) else "")
def test_header_that_lies_is_refused_by_value_and_rule_before_memory_is_taken(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "lying.gguf"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=message) as problem:
            GGUFFile(path)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    assert str(path) in str(problem.value)
    assert len(str(problem.value)) < 600, "a hostile value is repeated at full length"


def test_folder_and_missing_file_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.gguf"):
        with pytest.raises(FormatError, match="is not a file"):
            GGUFFile(path)


def read_all(path: Path) -> None:
    """Everything that a converter would touch; whatever the bytes, only a FormatError may come of it."""
    try:
        file = GGUFFile(path)
        for name in file.places:
            file.numbers(name)
    except FormatError:
        pass


@given(data=st.data())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_flipped_bytes_and_cut_files_end_in_a_format_error_and_in_bounded_memory(
    small: Path, tmp_path: Path, data: st.DataObject
) -> None:
    content = bytearray(small.read_bytes())
    header_bytes = min(place.offset_bytes for place in GGUFFile(small).places.values())
    places = st.integers(0, header_bytes - 1)
    for place, byte in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=6)):
        content[place] = byte
    end = data.draw(st.one_of(st.none(), st.integers(0, len(content))))
    path = tmp_path / "flipped.gguf"
    path.write_bytes(content[:end])
    tracemalloc.start()
    try:
        read_all(path)
        assert tracemalloc.get_traced_memory()[1] < 100 * len(content)
    finally:
        tracemalloc.stop()


@given(content=st.binary(max_size=300))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_behind_the_magic_end_in_a_format_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "any.gguf"
    path.write_bytes(b"GGUF\3\0\0\0" + content)
    read_all(path)

"""What an ONNX file reads beside itself is found, and held to its folder, as the onnx package would read it."""

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hanbit.common.errors import FormatError
from hanbit.formats.onnx import check_external_files, external_locations
from tests.server.tensor_models.onnx_files import FLOAT, matmul, model_of, reading, value


def external(name: str, location: str) -> TensorProto:
    tensor = numpy_helper.from_array(np.zeros(2, np.float32), name)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def test_files_are_found_wherever_a_tensor_may_be(tmp_path: Path) -> None:
    inner = helper.make_graph(
        [helper.make_node("Constant", [], ["c"], value=external("c", "in-a-node"))],
        "inner",
        [],
        [value("c", FLOAT, [2])],
        [external("d", "in-an-inner-graph")],
    )
    sparse = helper.make_sparse_tensor(
        external("s", "in-a-sparse"), numpy_helper.from_array(np.array([0, 1]), "i"), [4]
    )
    nodes = [
        helper.make_node("If", ["b"], ["Y"], then_branch=inner, else_branch=inner),
        helper.make_node("Constant", [], ["z"], sparse_value=sparse),
    ]
    model = model_of(nodes, [value("b", TensorProto.BOOL, [])], [value("Y", FLOAT, [2])], (external("e", "plain"),))
    model.functions.add(name="f", domain="d").node.append(
        helper.make_node("Constant", [], ["f"], value=external("f", "in-a-function"))
    )
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    assert external_locations(path) == {"in-a-node", "in-an-inner-graph", "in-a-sparse", "plain", "in-a-function"}


def test_data_beside_the_file_are_let_through(tmp_path: Path) -> None:
    onnx.save_model(matmul(), tmp_path / "model.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    assert external_locations(tmp_path / "model.onnx") == {"w.bin"}
    check_external_files(tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("location", "says"),
    [
        ("/etc/passwd", "outside"),
        ("../outside.bin", "outside"),
        ("inner/../../outside.bin", "outside"),
        ("..\\outside.bin", "outside"),
        ("C:outside.bin", "outside"),
        ("link.bin", "link"),
        ("linked/outside.bin", "link"),
        ("hard.bin", "hard link"),
        ("inner", "folder"),
        ("missing.bin", "No such file"),
        ("*/_ORT_MEM_ADDR_/*", "No such file"),
        ("", "no name"),
    ],
)
def test_files_elsewhere_are_refused(location: str, says: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "inner").mkdir(parents=True)
    (tmp_path / "outside.bin").write_bytes(bytes(48))
    (folder / "link.bin").symlink_to(tmp_path / "outside.bin")
    (folder / "linked").symlink_to(tmp_path)
    os.link(tmp_path / "outside.bin", folder / "hard.bin")
    reading(location, folder)
    with pytest.raises(FormatError, match=says):
        check_external_files(folder / "model.onnx")


@pytest.mark.parametrize("content", [b"", b"junk", b"\x3a\xff\xff\xff\xff\x7f", b"\x80" * 40, b"\x08", b"\x3a\x05ab"])
def test_what_is_no_protobuf_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(FormatError):
        check_external_files(tmp_path / "model.onnx")


def test_nesting_without_end_is_refused(tmp_path: Path) -> None:
    content = b""
    for index in range(3000):  # graph in attribute in node in graph ...
        tag = (b"\x32", b"\x2a", b"\x0a")[index % 3]
        size, length = len(content), b""
        while True:
            length += bytes([size & 0x7F | (0x80 if size > 0x7F else 0)])
            size >>= 7
            if not size:
                break
        content = tag + length + content
    (tmp_path / "model.onnx").write_bytes(b"\x3a" + bytes([len(content) & 0x7F | 0x80, len(content) >> 7]) + content)
    with pytest.raises(FormatError):
        check_external_files(tmp_path / "model.onnx")

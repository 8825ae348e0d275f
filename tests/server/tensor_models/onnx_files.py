"""ONNX files of a few nodes, made with the onnx package."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ONE_THREAD = 'parameters { key: "intra_op_thread_count" value { string_value: "1" } }'
FLOAT, INT64, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING
WEIGHTS = np.arange(12, dtype=np.float32).reshape(3, 4)


def value(name: str, kind: int, dims: list) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, dims)


def model_of(nodes: list, inputs: list, outputs: list, initializers: tuple = ()) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "graph", inputs, outputs, list(initializers))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def write(model: onnx.ModelProto, repository: Path, name: str, config: str | None = None, version: int = 1) -> Path:
    """The model's folder."""
    folder = repository / name
    (folder / str(version)).mkdir(parents=True)
    (folder / str(version) / "model.onnx").write_bytes(model.SerializeToString())
    if config is not None:
        (folder / "config.pbtxt").write_text(config)
    return folder


def matmul(batch: object = "n", weights: np.ndarray = WEIGHTS) -> onnx.ModelProto:
    """Y = X @ weights; rows by `batch`."""
    initializer = numpy_helper.from_array(weights, "weights")
    nodes = [helper.make_node("MatMul", ["X", "weights"], ["Y"])]
    return model_of(nodes, [value("X", FLOAT, [batch, 3])], [value("Y", FLOAT, [batch, 4])], (initializer,))


def gather() -> onnx.ModelProto:
    """Y = table[X]: an X outside 0..3 cannot be computed."""
    table = numpy_helper.from_array(np.array([10, 11, 12, 13], np.float32), "table")
    nodes = [helper.make_node("Gather", ["table", "X"], ["Y"])]
    return model_of(nodes, [value("X", INT64, ["n", 1])], [value("Y", FLOAT, ["n", 1])], (table,))


def identities(**kinds: int) -> onnx.ModelProto:
    """OUT_name = IN_name for each."""
    nodes = [helper.make_node("Identity", [f"IN_{name}"], [f"OUT_{name}"]) for name in kinds]
    inputs = [value(f"IN_{name}", kind, ["n", 2]) for name, kind in kinds.items()]
    outputs = [value(f"OUT_{name}", kind, ["n", 2]) for name, kind in kinds.items()]
    return model_of(nodes, inputs, outputs)


def slow(rounds: int = 300_000) -> onnx.ModelProto:
    """Y = X + rounds, one after another: about a second in an ONNX loop."""
    one = numpy_helper.from_array(np.ones(1, np.float32), "one")
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_out"]), helper.make_node("Add", ["sum", "one"], ["sum_out"])],
        "body",
        [value("i", INT64, []), value("go", TensorProto.BOOL, []), value("sum", FLOAT, ["n"])],
        [value("go_out", TensorProto.BOOL, []), value("sum_out", FLOAT, ["n"])],
        [one],
    )
    true = numpy_helper.from_array(np.array(True), "true")
    count = numpy_helper.from_array(np.array(rounds), "count")
    nodes = [helper.make_node("Loop", ["count", "true", "X"], ["Y"], body=body)]
    return model_of(nodes, [value("X", FLOAT, ["n"])], [value("Y", FLOAT, ["n"])], (true, count))


def reading(location: str, folder: Path) -> None:
    """model.onnx, whose weights lie in `location`, and are named there before anything is checked."""
    model = matmul()
    initializer = model.graph.initializer[0]
    initializer.ClearField("raw_data")
    initializer.data_location = TensorProto.EXTERNAL
    initializer.external_data.add(key="location", value=location)
    (folder / "model.onnx").write_bytes(model.SerializeToString())

"""What can be tried of TensorRT without it: the error at loading, and what an engine says of its tensors."""

from enum import Enum
from importlib.util import find_spec
from pathlib import Path

import pytest
import tritonclient.http as client

from hanbit.common.errors import RepositoryError
from hanbit.server.tensor_models.engine_signature import signature_of
from hanbit.server.tensor_models.signature import TensorSpec
from tests.server.served import serving

Kind = Enum("Kind", ["FLOAT", "HALF", "FP4"])
Mode = Enum("Mode", ["INPUT", "OUTPUT"])


class Engine:
    """With the four questions of tensorrt.ICudaEngine."""

    def __init__(self, **tensors: tuple[Mode, Kind, tuple[int, ...]]) -> None:
        self._tensors = tensors
        self.num_io_tensors = len(tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_mode(self, name: str) -> Mode:
        return self._tensors[name][0]

    def get_tensor_dtype(self, name: str) -> Kind:
        return self._tensors[name][1]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._tensors[name][2]


def test_an_engine_says_what_it_takes_and_gives() -> None:
    engine = Engine(x=(Mode.INPUT, Kind.HALF, (-1, 3)), y=(Mode.OUTPUT, Kind.FLOAT, (-1, 4)))
    found = signature_of("plan", engine)
    assert found.inputs == (TensorSpec("x", "FP16", (-1, 3)),)
    assert found.outputs == (TensorSpec("y", "FP32", (-1, 4)),)
    assert found.can_batch


def test_a_tensor_that_no_request_can_carry_is_refused() -> None:
    with pytest.raises(RepositoryError, match="'x' is FP4"):
        signature_of("plan", Engine(x=(Mode.INPUT, Kind.FP4, (3,))))


@pytest.mark.skipif(find_spec("tensorrt") is not None, reason="TensorRT is here")
def test_without_the_library_loading_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "plan" / "1").mkdir(parents=True)
    (tmp_path / "plan" / "1" / "model.plan").write_bytes(b"plan")
    with serving(tmp_path, fail_if_a_model_fails=False) as served, client.InferenceServerClient(served.http) as asked:
        (line,) = asked.get_model_repository_index()
    assert line["state"] == "UNAVAILABLE"
    assert "TensorRT is not installed" in line["reason"]
    assert "serve the ONNX file" in line["reason"]

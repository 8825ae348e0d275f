"""What a TensorRT engine says of its tensors; apart from the library, so that it can be tried without one."""

from typing import Any

from hanbit.common.errors import RepositoryError
from hanbit.server.tensor_models.signature import Signature, TensorSpec

_DATATYPES = {
    "FLOAT": "FP32",
    "HALF": "FP16",
    "BF16": "BF16",
    "INT8": "INT8",
    "UINT8": "UINT8",
    "INT32": "INT32",
    "INT64": "INT64",
    "BOOL": "BOOL",
}


def signature_of(name: str, engine: Any) -> Signature:
    """`engine`: tensorrt.ICudaEngine. Raises RepositoryError."""
    found: dict[str, list[TensorSpec]] = {"INPUT": [], "OUTPUT": []}
    for index in range(engine.num_io_tensors):
        tensor = engine.get_tensor_name(index)
        kind = engine.get_tensor_dtype(tensor).name
        if kind not in _DATATYPES:
            raise RepositoryError(f"model {name!r}: {tensor!r} is {kind}, which no request can carry")
        spec = TensorSpec(tensor, _DATATYPES[kind], tuple(engine.get_tensor_shape(tensor)))
        found[engine.get_tensor_mode(tensor).name].append(spec)
    return Signature(tuple(found["INPUT"]), tuple(found["OUTPUT"]))

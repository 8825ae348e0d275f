"""A TensorRT plan at one GPU. Written against TensorRT 10's API; never run: no machine of ours has had the library."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorrt
import torch
from tritonclient.grpc.model_config_pb2 import ModelConfig

from hanbit.common.errors import RepositoryError
from hanbit.server.batching.options import InstancePlace
from hanbit.server.errors import RequestError, invalid
from hanbit.server.tensor_models.engine_signature import signature_of
from hanbit.server.tensor_models.signature import Signature
from hanbit.server.tensor_models.torch_module import TORCH_DTYPES

_LOGGER = tensorrt.Logger(tensorrt.Logger.ERROR)


def load(config: ModelConfig, path: Path, place: InstancePlace) -> tuple["TensorrtEngine", Signature]:
    """Raises RepositoryError."""
    if place.kind != "KIND_GPU":
        raise RepositoryError(f"model {config.name!r}: a TensorRT plan computes on a GPU: instance_group KIND_GPU")
    with torch.cuda.device(place.device):
        engine = tensorrt.Runtime(_LOGGER).deserialize_cuda_engine(path.read_bytes())
        if engine is None:
            raise RepositoryError(
                f"model {config.name!r}: TensorRT {tensorrt.__version__} cannot read {path}. A plan is made for one "
                "version and one kind of GPU: build it again here, or serve the ONNX file it came from"
            )
        signature = signature_of(config.name, engine)
        return TensorrtEngine(config.name, engine, signature, place.device), signature


class TensorrtEngine:
    """`run` by one thread at a time."""

    def __init__(self, name: str, engine: Any, signature: Signature, device: int) -> None:
        self._name, self._signature = name, signature
        self._device = torch.device("cuda", device)
        self._context = engine.create_execution_context()
        self._stream = torch.cuda.Stream(self._device)

    def run(self, inputs: dict[str, np.ndarray], wanted: Sequence[str]) -> dict[str, np.ndarray]:
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            held = []
            for spec in self._signature.inputs:
                data = torch.from_numpy(np.array(inputs[spec.name])).to(self._device, TORCH_DTYPES[spec.datatype])
                held.append(data)
                if not self._context.set_input_shape(spec.name, tuple(data.shape)):
                    raise invalid(f"model {self._name!r}: {spec.name!r} of shape {list(data.shape)} is in no profile")
                self._context.set_tensor_address(spec.name, data.data_ptr())
            made = {spec.name: self._output(spec.name, spec.datatype) for spec in self._signature.outputs}
            if not self._context.execute_async_v3(self._stream.cuda_stream):
                raise RequestError("internal", f"model {self._name!r} failed; the log has TensorRT's reason")
            self._stream.synchronize()
            return {name: _array(made[name]) for name in wanted}

    def _output(self, name: str, datatype: str) -> torch.Tensor:
        shape = tuple(self._context.get_tensor_shape(name))
        if any(dim < 0 for dim in shape):
            raise RequestError("unsupported", f"model {self._name!r}: the size of {name!r} depends on the data")
        found = torch.empty(shape, dtype=TORCH_DTYPES[datatype], device=self._device)
        self._context.set_tensor_address(name, found.data_ptr())
        return found


def _array(one: torch.Tensor) -> np.ndarray:
    return (one.float() if one.dtype == torch.bfloat16 else one).cpu().numpy()

"""An ONNX file as a session of ONNX Runtime: its options as Triton's back end has them, its providers, its tensors."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tritonclient.grpc.model_config_pb2 import ModelConfig

from hanbit.common.errors import FormatError, RepositoryError
from hanbit.formats.onnx import check_external_files
from hanbit.repository.config import parameter
from hanbit.server.batching.options import InstancePlace
from hanbit.server.errors import Kind, RequestError, invalid
from hanbit.server.tensor_models.signature import Signature, TensorSpec

_DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float": "FP32",
    "double": "FP64",
    "string": "BYTES",
}
_LEVELS = {
    -1: onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    0: onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    1: onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    2: onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
# parameters that are handed on as they are
_ENTRIES = (
    "session.intra_op.allow_spinning",
    "session.inter_op.allow_spinning",
    "session.set_denormal_as_zero",
    "session.use_device_allocator_for_initializers",
    "session.disable_prepacking",
)
_TENSORRT = {"max_workspace_size_bytes": "trt_max_workspace_size"}  # Triton's word -> the provider's
_CUDA = ("cudnn_conv_algo_search", "gpu_mem_limit", "arena_extend_strategy", "do_copy_in_default_stream")
_CUDA_WORDS = {
    "cudnn_conv_algo_search": ("EXHAUSTIVE", "HEURISTIC", "DEFAULT"),
    "arena_extend_strategy": ("kNextPowerOfTwo", "kSameAsRequested"),
}
_PROVIDERS = {
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
Provider = tuple[str, dict[str, str]]


def has_cuda() -> bool:
    return _PROVIDERS["cuda"] in onnxruntime.get_available_providers()


def load(config: ModelConfig, path: Path, place: InstancePlace) -> tuple["OnnxSession", Signature]:
    """Raises RepositoryError."""
    try:
        check_external_files(path)
        session = onnxruntime.InferenceSession(
            str(path), session_options(config), providers=providers(config, place), enable_fallback=False
        )
    except FormatError as problem:
        raise RepositoryError(f"model {config.name!r}: {problem}") from None
    except RepositoryError:
        raise
    except Exception as problem:  # ONNX Runtime has a dozen of its own, without a common class
        raise RepositoryError(f"model {config.name!r}: {path} is no model that can be loaded: {problem}") from None
    return OnnxSession(config.name, session), _signature(config.name, session)


class OnnxSession:
    """`run` may be called from several threads."""

    def __init__(self, name: str, session: onnxruntime.InferenceSession) -> None:
        self._name, self._session = name, session
        self._texts = {one.name for one in session.get_inputs() if one.type == "tensor(string)"}

    def run(self, inputs: dict[str, np.ndarray], wanted: Sequence[str]) -> dict[str, np.ndarray]:
        given = {name: _as_texts(name, one) if name in self._texts else one for name, one in inputs.items()}
        try:
            made = self._session.run(list(wanted), given)
        except Exception as problem:
            kind: Kind = "invalid" if type(problem).__name__ == "InvalidArgument" else "internal"
            raise RequestError(kind, f"model {self._name!r} cannot compute this: {_short(problem)}") from None
        return {name: _as_bytes(one) if one.dtype.kind in "OU" else one for name, one in zip(wanted, made, strict=True)}


def session_options(config: ModelConfig) -> onnxruntime.SessionOptions:
    """Raises RepositoryError."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is an exception, too
    options.intra_op_num_threads = _number(config, "intra_op_thread_count", 0, 1024)
    options.inter_op_num_threads = _number(config, "inter_op_thread_count", 0, 1024)
    if _number(config, "execution_mode", 0, 1):
        options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
    options.enable_cpu_mem_arena = bool(_number(config, "enable_mem_arena", 0, 1, 1))
    options.enable_mem_pattern = bool(_number(config, "enable_mem_pattern", 0, 1, 1))
    level = config.optimization.graph.level
    if level not in _LEVELS:
        raise RepositoryError(f"model {config.name!r}: optimization.graph.level: {level} must be -1, 0, 1 or 2")
    options.graph_optimization_level = _LEVELS[level]
    for name in _ENTRIES:
        if parameter(config, name):
            options.add_session_config_entry(name, parameter(config, name))
    return options


def providers(config: ModelConfig, place: InstancePlace) -> list[Provider]:
    """In the order in which they are asked to compute a node; the CPU takes what is left. Raises RepositoryError."""
    asked = config.optimization.execution_accelerators
    found: list[Provider] = []
    on_gpu = place.kind == "KIND_GPU"
    options = {name: _cuda_option(config, name) for name in _CUDA if parameter(config, name)}
    for one in asked.gpu_execution_accelerator if on_gpu else asked.cpu_execution_accelerator:
        known = ("tensorrt", "cuda") if on_gpu else ("openvino",)
        if one.name not in known:
            raise RepositoryError(
                f"model {config.name!r}: there is no execution accelerator {one.name!r:.80} for "
                f"{'GPUs' if on_gpu else 'the CPU'}; there is {' and '.join(known)}"
            )
        if one.name == "cuda":
            options |= dict(one.parameters)
        else:
            found.append((_PROVIDERS[one.name], _tensorrt_options(one.parameters) if on_gpu else dict(one.parameters)))
    if on_gpu:
        found.append((_PROVIDERS["cuda"], options))
        found = [(name, {"device_id": str(place.device), **more}) for name, more in found]
    for name, _ in found:
        if name not in onnxruntime.get_available_providers():
            raise RepositoryError(
                f"model {config.name!r} asks for {name}, which this build of ONNX Runtime does not have; it has "
                f"{', '.join(onnxruntime.get_available_providers())}"
            )
    return [*found, ("CPUExecutionProvider", {})]


def _tensorrt_options(given: Mapping[str, str]) -> dict[str, str]:
    found = {_TENSORRT.get(name, name): value for name, value in given.items() if name != "precision_mode"}
    for precision, option in (("FP16", "trt_fp16_enable"), ("INT8", "trt_int8_enable")):
        if given.get("precision_mode") == precision:
            found[option] = "1"
    for name in ("int8_calibration_table_name", "int8_use_native_calibration_table"):
        if name in found:
            found[f"trt_{name}"] = found.pop(name)
    return found


def _cuda_option(config: ModelConfig, name: str) -> str:
    words = _CUDA_WORDS.get(name)
    return words[_number(config, name, 0, len(words) - 1)] if words else parameter(config, name)


def _number(config: ModelConfig, name: str, least: int, most: int, usual: int = 0) -> int:
    value = parameter(config, name, str(usual))
    try:
        number = int(value)
    except ValueError:
        number = least - 1
    if not least <= number <= most:
        raise RepositoryError(
            f"model {config.name!r}: parameter {name}: {value!r:.40} must be a whole number from {least} to {most}"
        )
    return number


def _signature(name: str, session: onnxruntime.InferenceSession) -> Signature:
    return Signature(
        tuple(_spec(name, one) for one in session.get_inputs()),
        tuple(_spec(name, one) for one in session.get_outputs()),
    )


def _spec(model: str, one: Any) -> TensorSpec:
    inner = one.type.removeprefix("tensor(").removesuffix(")")
    if inner == one.type or inner not in _DATATYPES:
        raise RepositoryError(
            f"model {model!r}: {one.name!r} is {one.type}, which no request can carry. Tensors of these are served: "
            f"{', '.join(_DATATYPES)}"
        )
    return TensorSpec(one.name, _DATATYPES[inner], tuple(dim if isinstance(dim, int) else -1 for dim in one.shape))


def _as_texts(name: str, data: np.ndarray) -> np.ndarray:
    """ONNX has texts where the protocol has bytes."""
    found = np.empty(data.size, np.object_)
    try:
        found[:] = [item.decode() for item in data.ravel()]
    except UnicodeDecodeError:
        raise invalid(f"input {name!r} of an ONNX model is text, and an element of it is not UTF-8") from None
    return found.reshape(data.shape)


def _as_bytes(data: np.ndarray) -> np.ndarray:
    found = np.empty(data.size, np.object_)
    found[:] = [str(item).encode() for item in data.ravel()]
    return found.reshape(data.shape)


def _short(problem: Exception) -> str:
    return str(problem).split("Status Message: ")[-1].strip()[:300]

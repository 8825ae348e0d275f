"""The module that Triton's Python models import, as this server has it. `module.py` puts it under that name."""

from typing import Any

import numpy as np

from hanbit.server.python_models.api_config import ModelConfig
from hanbit.server.python_models.api_errors import TritonError, TritonModelException
from hanbit.server.python_models.api_requests import (
    TRITONSERVER_MEMORY_CPU,
    TRITONSERVER_MEMORY_GPU,
    TRITONSERVER_REQUEST_FLAG_SEQUENCE_END,
    TRITONSERVER_REQUEST_FLAG_SEQUENCE_START,
    TRITONSERVER_REQUEST_RELEASE_ALL,
    TRITONSERVER_REQUEST_RELEASE_RESCHEDULE,
    TRITONSERVER_RESPONSE_COMPLETE_FINAL,
    InferenceRequest,
    InferenceResponse,
    InferenceResponseSender,
    InferenceTrace,
    PreferredMemory,
    ResponseIterator,
)
from hanbit.server.python_models.api_tensor import Tensor
from hanbit.server.python_models.datatypes import (
    numpy_to_triton_type,
    raw_of,
    split_bytes,
    triton_string_to_numpy,
    triton_to_numpy_type,
)
from hanbit.server.python_models.host import host

__all__ = [
    "TRITONSERVER_MEMORY_CPU",
    "TRITONSERVER_MEMORY_GPU",
    "TRITONSERVER_REQUEST_FLAG_SEQUENCE_END",
    "TRITONSERVER_REQUEST_FLAG_SEQUENCE_START",
    "TRITONSERVER_REQUEST_RELEASE_ALL",
    "TRITONSERVER_REQUEST_RELEASE_RESCHEDULE",
    "TRITONSERVER_RESPONSE_COMPLETE_FINAL",
    "InferenceRequest",
    "InferenceResponse",
    "InferenceResponseSender",
    "InferenceTrace",
    "Logger",
    "ModelConfig",
    "PreferredMemory",
    "ResponseIterator",
    "Tensor",
    "TritonError",
    "TritonModelException",
    "deserialize_bytes_tensor",
    "get_input_config_by_name",
    "get_input_tensor_by_name",
    "get_output_config_by_name",
    "get_output_tensor_by_name",
    "is_model_ready",
    "load_model",
    "numpy_to_triton_type",
    "serialize_byte_tensor",
    "triton_string_to_numpy",
    "triton_to_numpy_type",
    "unload_model",
    "using_decoupled_model_transaction_policy",
]


class Logger:
    """Into the server's log."""

    INFO, WARNING, ERROR, VERBOSE = "INFO", "WARNING", "ERROR", "VERBOSE"

    class LogLevel:
        INFO, WARNING, ERROR, VERBOSE = "INFO", "WARNING", "ERROR", "VERBOSE"

    @staticmethod
    def log(message: str, level: str = INFO) -> None:
        host().log(level, str(message))

    @staticmethod
    def log_info(message: str) -> None:
        host().log("INFO", str(message))

    @staticmethod
    def log_warn(message: str) -> None:
        host().log("WARNING", str(message))

    @staticmethod
    def log_error(message: str) -> None:
        host().log("ERROR", str(message))

    @staticmethod
    def log_verbose(message: str) -> None:
        host().log("VERBOSE", str(message))


def get_input_tensor_by_name(inference_request: InferenceRequest, name: str) -> Tensor | None:
    return _named(inference_request.inputs(), name)


def get_output_tensor_by_name(inference_response: InferenceResponse, name: str) -> Tensor | None:
    return _named(inference_response.output_tensors(), name)


def _named(tensors: list[Tensor], name: str) -> Tensor | None:
    for one in tensors:
        if one._name == name:
            return one
    return None


def get_input_config_by_name(model_config: dict[str, Any], name: str) -> dict[str, Any] | None:
    return next((one for one in model_config.get("input", ()) if one["name"] == name), None)


def get_output_config_by_name(model_config: dict[str, Any], name: str) -> dict[str, Any] | None:
    return next((one for one in model_config.get("output", ()) if one["name"] == name), None)


def using_decoupled_model_transaction_policy(model_config: dict[str, Any]) -> bool:
    return bool(model_config.get("model_transaction_policy", {}).get("decoupled", False))


def serialize_byte_tensor(input_tensor: np.ndarray) -> bytes | None:
    """Each element after its length; None for what is not of bytes or objects."""
    return bytes(raw_of(input_tensor)) if input_tensor.dtype.kind in "OS" else None


def deserialize_bytes_tensor(encoded_tensor: bytes) -> np.ndarray:
    found = np.empty(len(items := split_bytes(encoded_tensor)), np.object_)
    found[:] = items
    return found


def load_model(model_name: str, config: str = "", files: dict[str, bytes] | None = None) -> None:
    """Where clients may load models, too (`--model-control-mode explicit`); as the repository has it."""
    if config or files:
        raise TritonModelException("load_model takes no config and no files here: edit the repository, then load")
    host().control("load", name=model_name)


def unload_model(model_name: str, unload_dependents: bool = False) -> None:
    host().control("unload", name=model_name, with_members=bool(unload_dependents))


def is_model_ready(model_name: str, model_version: str = "") -> bool:
    return bool(host().control("is_ready", name=model_name, version=str(model_version)))

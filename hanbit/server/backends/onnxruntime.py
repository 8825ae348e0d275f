"""`backend: "onnxruntime"` (platform `onnxruntime_onnx`): ONNX files by ONNX Runtime. docs/tensor-models.md."""

from tritonclient.grpc.model_config_pb2 import ModelConfig

from hanbit.common.errors import RepositoryError
from hanbit.server.backends.find import Loaded, Surroundings
from hanbit.server.tensor_models.devices import gpus_of_torch
from hanbit.server.tensor_models.loading import load_tensor_model


async def load_model(config: ModelConfig, around: Surroundings) -> Loaded:
    """Raises RepositoryError."""
    try:
        from hanbit.server.tensor_models.onnx_session import has_cuda, load
    except ImportError as problem:
        raise RepositoryError(
            f"model {config.name!r} needs ONNX Runtime ({problem}): pip install 'hanbit[onnxruntime]'"
        ) from None
    return await load_tensor_model(config, around, load, gpus_of_torch() if has_cuda() else ())

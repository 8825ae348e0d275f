"""`backend: "tensorrt"` (platform `tensorrt_plan`): .plan files where TensorRT is installed. docs/tensor-models.md."""

from tritonclient.grpc.model_config_pb2 import ModelConfig

from hanbit.common.errors import RepositoryError
from hanbit.server.backends.find import Loaded, Surroundings
from hanbit.server.tensor_models.devices import gpus_of_torch
from hanbit.server.tensor_models.loading import load_tensor_model


async def load_model(config: ModelConfig, around: Surroundings) -> Loaded:
    """Raises RepositoryError. A context computes one batch at a time, so each instance has its own."""
    try:
        from hanbit.server.tensor_models.tensorrt_engine import load
    except ImportError as problem:
        raise RepositoryError(
            f"model {config.name!r} is a TensorRT plan, and TensorRT is not installed ({problem}). Install it "
            "on a machine with an NVIDIA GPU, of the version that made the plan; or serve the ONNX file it came from"
        ) from None
    if not gpus_of_torch():
        raise RepositoryError(f"model {config.name!r} is a TensorRT plan, and PyTorch sees no GPU here")
    return await load_tensor_model(config, around, load, gpus_of_torch(), shares=False)

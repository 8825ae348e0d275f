"""`backend: "pytorch"` (platform `pytorch_libtorch`): TorchScript and exported programs. docs/tensor-models.md."""

from tritonclient.grpc.model_config_pb2 import ModelConfig

from hanbit.server.backends.find import Loaded, Surroundings
from hanbit.server.tensor_models.devices import gpus_of_torch
from hanbit.server.tensor_models.loading import load_tensor_model
from hanbit.server.tensor_models.torch_module import load, shares_weights


async def load_model(config: ModelConfig, around: Surroundings) -> Loaded:
    """Raises RepositoryError. A module may keep something from call to call, so each instance has its own."""
    return await load_tensor_model(config, around, load, gpus_of_torch(), shares_weights(config))

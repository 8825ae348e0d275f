"""Fresh weights that depend on the seed and on a parameter's name alone, so that every layout starts alike.

Normal with the config's deviation; outputs of residual branches are scaled by 1 / sqrt(2 x layers), so that the
residual stream does not grow with depth (Radford et al., 2019). Norms start at one, biases at zero.
"""

import hashlib

import torch

from hanbit.config.model import ModelConfig

_RESIDUAL_OUTPUTS = ("attention.output.weight", "mlp.down.weight")


def initial_value(config: ModelConfig, name: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """The whole tensor of parameter `name`, float32 on the CPU."""
    if name.endswith("bias"):
        return torch.zeros(shape, device="cpu")
    if len(shape) == 1:
        return torch.ones(shape, device="cpu")
    deviation = config.initial_deviation
    if name.endswith(_RESIDUAL_OUTPUTS):
        deviation /= (2 * config.layers) ** 0.5
    generator = torch.Generator("cpu").manual_seed(seed_of(name, seed))
    return torch.empty(shape, device="cpu").normal_(0.0, deviation, generator=generator)


def seed_of(name: str, seed: int) -> int:
    """The seed of one parameter's generator."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1

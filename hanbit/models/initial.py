"""Fresh weights that depend on the seed and on a parameter's name alone, so that every layout starts alike.

Normal with the config's deviation; outputs of residual branches are scaled by 1 / sqrt(2 x layers), so that the
residual stream does not grow with depth (Radford et al., 2019), but for BERT, whose stream is normed after every part.
T5 has deviations of its own. Norms start at one, biases at zero.
"""

import hashlib

import torch

from hanbit.config.model import BertConfig, GemmaConfig, ModelConfig, T5Config

_RESIDUAL_OUTPUTS = ("attention.output.weight", "mlp.down.weight", "mlp.experts.down")


def initial_value(config: ModelConfig, name: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """The whole tensor of parameter `name`, float32 on the CPU."""
    if name.endswith("bias"):
        return torch.zeros(shape, device="cpu")
    if len(shape) == 1 and isinstance(config, GemmaConfig):  # weights of norms count from one
        return torch.zeros(shape, device="cpu")
    if len(shape) == 1:
        return torch.ones(shape, device="cpu")
    deviation = _deviation(config, name, shape)
    generator = torch.Generator("cpu").manual_seed(seed_of(name, seed))
    return torch.empty(shape, device="cpu").normal_(0.0, deviation, generator=generator)


def _deviation(config: ModelConfig, name: str, shape: tuple[int, ...]) -> float:
    if isinstance(config, T5Config):
        return config.initial_deviation * _share_of_t5(config, name, shape)
    is_end_of_branch = name.endswith(_RESIDUAL_OUTPUTS) and not isinstance(config, BertConfig)
    return config.initial_deviation / ((2 * config.layers) ** 0.5 if is_end_of_branch else 1.0)


def _share_of_t5(config: T5Config, name: str, shape: tuple[int, ...]) -> float:
    """As Mesh TensorFlow has it (Raffel et al., arXiv 1910.10683): 1 / sqrt of the width of a matrix's input, smaller
    for queries, since scores are not scaled; 1 for embeddings, unless they also project and nothing scales the output.
    """
    assert isinstance(config.head_dim, int)
    if name == "embedding.weight":
        return 1.0 if config.scaled_output or not config.tied else config.hidden**-0.5
    if name.endswith("attention.query.weight"):
        return (config.hidden * config.head_dim) ** -0.5
    return (config.hidden if name in ("encoder_bias.weight", "decoder_bias.weight") else shape[1]) ** -0.5


def seed_of(name: str, seed: int) -> int:
    """The seed of one parameter's generator."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1

"""Small random configurations of every architecture, as transformers makes them."""

from typing import Any

import torch
from transformers import (
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

SMALL: dict[str, Any] = {
    "vocab_size": 131, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": None, "bos_token_id": None,
    "eos_token_id": None,
}  # fmt: skip

LLAMA3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16,
          "low_freq_factor": 1.0, "high_freq_factor": 4.0}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 5000.0, "factor": 4.0, "original_max_position_embeddings": 16}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}

CONFIGS: dict[str, PreTrainedConfig] = {
    "gpt2": GPT2Config(vocab_size=131, n_positions=64, n_embd=48, n_layer=3, n_head=4, bos_token_id=None, eos_token_id=None),
    "gpt2 own inner, untied": GPT2Config(
        vocab_size=131, n_positions=64, n_embd=48, n_layer=3, n_head=4, n_inner=72, tie_word_embeddings=False,
        bos_token_id=None, eos_token_id=None,
    ),
    "llama": LlamaConfig(**SMALL),
    "llama tied, one key head, base 500000": LlamaConfig(
        **{**SMALL, "num_key_value_heads": 1}, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
    ),
    "llama biases, own head_dim": LlamaConfig(**SMALL, attention_bias=True, mlp_bias=True, head_dim=16),
    "llama llama3": LlamaConfig(**SMALL, rope_parameters=LLAMA3),
    "llama yarn": LlamaConfig(**SMALL, rope_parameters=YARN),
    "llama linear": LlamaConfig(**SMALL, rope_parameters=LINEAR),
    "mistral window": MistralConfig(**SMALL, sliding_window=7),
    "mistral no window": MistralConfig(**SMALL, sliding_window=None),
    "qwen2": Qwen2Config(**SMALL),
    "qwen2 tied": Qwen2Config(**SMALL, tie_word_embeddings=True),
    "qwen2 window in all layers": Qwen2Config(**SMALL, use_sliding_window=True, sliding_window=9, max_window_layers=0),
    "qwen3": Qwen3Config(**SMALL, head_dim=16),
    "qwen3 bias, tied": Qwen3Config(**SMALL, head_dim=16, attention_bias=True, tie_word_embeddings=True),
}  # fmt: skip


def shake(model: torch.nn.Module) -> None:
    """Move norms and biases away from one and zero, so that a dropped one is noticed."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)

"""Small random configurations of every architecture, as transformers makes them."""

from typing import Any

import torch
from transformers import (
    BloomConfig,
    Exaone4Config,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTJConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    OPTConfig,
    Phi3Config,
    PhiConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
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
TWO_KINDS = ["sliding_attention", "full_attention", "sliding_attention"]
_NO_ENDS: dict[str, Any] = {"bos_token_id": None, "eos_token_id": None}
NEOX: dict[str, Any] = {key: value for key, value in SMALL.items() if key != "num_key_value_heads"}
GPTJ: dict[str, Any] = {
    "vocab_size": 131, "n_positions": 64, "n_embd": 48, "n_layer": 3, "n_head": 4, "tie_word_embeddings": False,
    **_NO_ENDS,
}  # fmt: skip
BLOOM: dict[str, Any] = {"vocab_size": 131, "hidden_size": 48, "n_layer": 3, **_NO_ENDS}

CONFIGS: dict[str, PreTrainedConfig] = {
    "gpt2": GPT2Config(
        vocab_size=131, n_positions=64, n_embd=48, n_layer=3, n_head=4, bos_token_id=None, eos_token_id=None
    ),
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
    "qwen3 window, yarn": Qwen3Config(
        **SMALL, head_dim=16, use_sliding_window=True, sliding_window=5, max_window_layers=0, rope_parameters=YARN
    ),
    "mistral window, llama3, heads that do not divide": MistralConfig(
        **{**SMALL, "hidden_size": 50}, head_dim=16, sliding_window=6, rope_parameters=LLAMA3
    ),
    "mistral heads that do not divide": MistralConfig(**{**SMALL, "hidden_size": 50}, head_dim=16, sliding_window=None),
    "qwen2 yarn, own ramp and scale": Qwen2Config(
        **SMALL, rope_parameters={**YARN, "beta_fast": 4.0, "beta_slow": 0.5, "attention_factor": 1.3}
    ),
    "qwen3 bias, tied": Qwen3Config(**SMALL, head_dim=16, attention_bias=True, tie_word_embeddings=True),
    "neox": GPTNeoXConfig(**NEOX, use_parallel_residual=True, rope_parameters={"partial_rotary_factor": 0.5}),
    "neox one after the other, tied, no biases": GPTNeoXConfig(
        **NEOX, use_parallel_residual=False, attention_bias=False, tie_word_embeddings=True, hidden_act="gelu_fast",
        rope_parameters={"partial_rotary_factor": 0.5, "rope_theta": 500.0},
    ),
    "neox whole heads, linear": GPTNeoXConfig(**NEOX, rope_parameters={**LINEAR, "partial_rotary_factor": 1.0}),
    "gptj": GPTJConfig(**GPTJ, rotary_dim=8),
    "gptj own inner, whole heads, tied": GPTJConfig(**{**GPTJ, "tie_word_embeddings": True}, rotary_dim=12, n_inner=72),
    "phi": PhiConfig(**{**SMALL, "num_key_value_heads": None}),
    "phi yarn, all but four features, tied": PhiConfig(
        **{**SMALL, "num_key_value_heads": 4, "num_attention_heads": 4}, tie_word_embeddings=True,
        rope_parameters={**YARN, "partial_rotary_factor": 2 / 3},
    ),
    "opt": OPTConfig(
        vocab_size=131, hidden_size=48, ffn_dim=80, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=64, dropout=0.0, pad_token_id=None, bos_token_id=None, eos_token_id=None,
    ),
    "opt untied, gelu": OPTConfig(
        vocab_size=131, hidden_size=48, ffn_dim=80, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=64, pad_token_id=None, bos_token_id=None, eos_token_id=None, tie_word_embeddings=False,
        activation_function="gelu",
    ),
    "bloom": BloomConfig(**BLOOM, n_head=4),
    "bloom six heads, untied": BloomConfig(**BLOOM, n_head=6, tie_word_embeddings=False),
    "gemma": GemmaConfig(**SMALL, head_dim=16),
    "gemma untied, biases": GemmaConfig(**SMALL, head_dim=16, tie_word_embeddings=False, attention_bias=True),
    "gemma2": Gemma2Config(**SMALL, head_dim=16, sliding_window=7, attn_logit_softcapping=2.0,
                           final_logit_softcapping=5.0, query_pre_attn_scalar=24),
    "gemma2 no caps, no windows": Gemma2Config(
        **SMALL, head_dim=16, layer_types=["full_attention"] * 3, attn_logit_softcapping=None,
        final_logit_softcapping=None,
    ),
    "gemma3": Gemma3TextConfig(**SMALL, head_dim=16, sliding_window=7, layer_types=TWO_KINDS, rope_parameters={
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
    }),
    "gemma3 windows in all layers": Gemma3TextConfig(**SMALL, head_dim=16, sliding_window=9),
    "phi3": Phi3Config(**SMALL),
    "phi3 part of a head, window, tied": Phi3Config(
        **SMALL, sliding_window=7, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5},
    ),
    "exaone4": Exaone4Config(**SMALL, sliding_window=7, sliding_window_pattern=2),
    "exaone4 no windows, llama3, tied": Exaone4Config(
        **SMALL, sliding_window=None, layer_types=["full_attention"] * 3, rope_parameters=LLAMA3,
        tie_word_embeddings=True,
    ),
    "mixtral": MixtralConfig(**SMALL, num_local_experts=4, router_aux_loss_coef=0.02),
    "mixtral window, tied, three of five experts": MixtralConfig(
        **SMALL, num_local_experts=5, num_experts_per_tok=3, sliding_window=7, tie_word_embeddings=True
    ),
    "mixtral own head_dim": MixtralConfig(**{**SMALL, "hidden_size": 52}, head_dim=16, num_local_experts=3),
    "qwen3_moe": Qwen3MoeConfig(
        **SMALL, head_dim=16, num_experts=6, num_experts_per_tok=2, moe_intermediate_size=24, norm_topk_prob=True
    ),
    "qwen3_moe every second layer, weights as they are, bias, window": Qwen3MoeConfig(
        **SMALL, num_experts=6, num_experts_per_tok=3, moe_intermediate_size=24, decoder_sparse_step=2,
        attention_bias=True, use_sliding_window=True, sliding_window=5,
    ),
}  # fmt: skip

# The same as other writers of config.json put it: a shape above, keys to set, keys to leave out.
OLD_ROPE = ("rope_parameters",)
TYPED_LINEAR = {"type": "linear", "factor": 2}
OTHER_WRITERS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "rope_theta alone": ("llama", {"rope_theta": 500}, OLD_ROPE),
    "rope_theta in a hundred millions": ("llama", {"rope_theta": 100_000_000}, OLD_ROPE),
    "rope_scaling with type": ("llama", {"rope_theta": 77.0, "rope_scaling": TYPED_LINEAR}, OLD_ROPE),
    "both ropes, of different minds": ("llama linear", {"rope_theta": 55.0, "rope_scaling": YARN}, ()),
    "yarn without its context": ("llama", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, OLD_ROPE),
    "smollm2": ("llama", {"rope_interleaved": False, "is_llama_config": True, "pretraining_tp": 1}, ("head_dim",)),
    "mistral that does not name its window": ("mistral window", {"max_position_embeddings": 8192}, ("sliding_window",)),
    "qwen2 with a window that is off": ("qwen2", {"sliding_window": 5, "max_window_layers": 0}, ("layer_types",)),
    "qwen2 with a window from the last layer on": (
        "qwen2", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 3}, ("layer_types",)
    ),
    "mixtral that names little": (
        "mixtral", {}, ("rope_parameters", "router_aux_loss_coef", "num_experts_per_tok", "rms_norm_eps", "head_dim")
    ),
    "qwen3_moe that names little": (
        "qwen3_moe", {}, ("norm_topk_prob", "decoder_sparse_step", "mlp_only_layers", "sliding_window", "rms_norm_eps")
    ),
    "gpt2 by other names": ("gpt2", {"num_attention_heads": 8, "num_hidden_layers": 3}, ("n_head", "n_layer")),
    "gpt2 with the other name of its gelu": ("gpt2", {"activation_function": "gelu_pytorch_tanh"}, ()),
}  # fmt: skip


def shake(model: torch.nn.Module) -> None:
    """Move norms and biases away from one and zero, so that a dropped one is noticed."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)

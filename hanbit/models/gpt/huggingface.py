"""GPT-2's folders: query, key and value lie in one matrix there, and matrices are transposed (Conv1D)."""

import re
from typing import Any

from hanbit.config.model import GPTConfig
from hanbit.models.huggingface import Adapter, Source, number, refuse_uneven, refuse_unless, under_one_name, wanted

PREFIX = "transformer."
_PLAIN = {
    "embedding.weight": "wte.weight",
    "position_embedding.weight": "wpe.weight",
    "norm.weight": "ln_f.weight",
    "norm.bias": "ln_f.bias",
}
_IN_LAYER = {"attention_norm": "ln_1", "mlp_norm": "ln_2"}
_MATRICES = {"attention.output": "attn.c_proj", "mlp.up": "mlp.c_fc", "mlp.down": "mlp.c_proj"}
_FUSED = {"attention.query": 0, "attention.key": 1, "attention.value": 2}
_ALIASES = {  # transformers reads both (GPT2Config.attribute_map)
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}
_CONSTANT = re.compile(r"(transformer\.)?h\.\d+\.attn\.(masked_)?bias")


def config_from(config: dict[str, Any]) -> GPTConfig:
    config = under_one_name(config, _ALIASES)
    refuse_unless(config, "activation_function", ("gelu_new", "gelu_pytorch_tanh"))
    refuse_unless(config, "scale_attn_weights", (True,))
    refuse_unless(config, "scale_attn_by_inverse_layer_idx", (False,))
    refuse_unless(config, "add_cross_attention", (False,))
    hidden, heads = wanted(config, "n_embd", int, 768), wanted(config, "n_head", int, 12)
    refuse_uneven("n_head", heads, "n_embd", hidden)
    inner = wanted(config, "n_inner", int, None)
    return GPTConfig(
        family="gpt",
        layers=wanted(config, "n_layer", int, 12),
        hidden=hidden,
        heads=heads,
        inner=4 * hidden if inner is None else inner,
        vocabulary=wanted(config, "vocab_size", int, 50257),
        context=wanted(config, "n_positions", int, 1024),
        norm_epsilon=number(config, "layer_norm_epsilon", 1e-5),
        tied=wanted(config, "tie_word_embeddings", bool, True),
        initial_deviation=number(config, "initializer_range", 0.02),
    )


def config_to(config: GPTConfig) -> dict[str, Any]:
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "n_layer": config.layers,
        "n_embd": config.hidden,
        "n_head": config.heads,
        "n_inner": config.inner,
        "vocab_size": config.vocabulary,
        "n_positions": config.context,
        "layer_norm_epsilon": config.norm_epsilon,
        "tie_word_embeddings": config.tied,
        "initializer_range": config.initial_deviation,
        # hanbit trains without dropout; a reader that goes on training should not add it unasked
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
    }


def source_of(name: str, config: GPTConfig) -> Source:
    if name == "output.weight":
        return Source("lm_head.weight")
    if name in _PLAIN:
        return Source(PREFIX + _PLAIN[name])
    _, index, rest = name.split(".", 2)
    module, short = rest.rsplit(".", 1)
    layer = f"{PREFIX}h.{index}."
    is_matrix = short == "weight"
    if module in _IN_LAYER:
        return Source(f"{layer}{_IN_LAYER[module]}.{short}")
    if module in _FUSED:
        return Source(f"{layer}attn.c_attn.{short}", _FUSED[module], 3, is_matrix)
    return Source(f"{layer}{_MATRICES[module]}.{short}", is_transposed=is_matrix)


def is_constant(name: str) -> bool:
    """Causal masks, which transformers before 4.29 saved; not to be taken for `attn.c_attn.bias`."""
    return _CONSTANT.fullmatch(name) is not None


GPT2 = Adapter({"GPT2LMHeadModel": "gpt2"}, config_from, config_to, source_of, is_constant, PREFIX)

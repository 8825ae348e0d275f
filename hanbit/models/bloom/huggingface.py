"""BLOOM's folders: BloomForCausalLM. Query, key and value are rows of one matrix, head by head."""

from typing import Any

from hanbit.common.errors import ModelError
from hanbit.config.model import BloomConfig
from hanbit.models.huggingface import (
    Adapter,
    Source,
    has_no_constants,
    number,
    refuse_uneven,
    refuse_unless,
    under_one_name,
    wanted,
)

PREFIX = "transformer."
_NAMES = {"num_attention_heads": "n_head", "num_hidden_layers": "n_layer", "n_embed": "hidden_size"}
_PLAIN = {"embedding": "word_embeddings", "embedding_norm": "word_embeddings_layernorm", "norm": "ln_f"}
_MODULES = {
    "attention_norm": "input_layernorm",
    "attention.output": "self_attention.dense",
    "mlp_norm": "post_attention_layernorm",
    "mlp.up": "mlp.dense_h_to_4h",
    "mlp.down": "mlp.dense_4h_to_h",
}
_FUSED = {"attention.query": 0, "attention.key": 1, "attention.value": 2}


def config_from(config: dict[str, Any]) -> BloomConfig:
    config = under_one_name(config, _NAMES)
    refuse_unless(config, "apply_residual_connection_post_layernorm", (False,))
    hidden, heads = wanted(config, "hidden_size", int, 64), wanted(config, "n_head", int, 8)
    refuse_uneven("n_head", heads, "hidden_size", hidden)
    return BloomConfig(
        family="bloom",
        layers=wanted(config, "n_layer", int, 2),
        hidden=hidden,
        heads=heads,
        inner=4 * hidden,
        vocabulary=wanted(config, "vocab_size", int, 250880),
        context=wanted(config, "seq_length", int, 2048),  # what it was trained with; nothing in the model ends there
        norm_epsilon=number(config, "layer_norm_epsilon", 1e-5),
        tied=wanted(config, "tie_word_embeddings", bool, True),
        initial_deviation=number(config, "initializer_range", 0.02),
    )


def config_to(config: BloomConfig) -> dict[str, Any]:
    if config.inner != 4 * config.hidden:
        raise ModelError(f"BloomForCausalLM has model.inner = 4 x model.hidden={config.hidden}, not {config.inner}")
    return {
        "architectures": ["BloomForCausalLM"],
        "model_type": "bloom",
        "n_layer": config.layers,
        "hidden_size": config.hidden,
        "n_head": config.heads,
        "vocab_size": config.vocabulary,
        "seq_length": config.context,
        "layer_norm_epsilon": config.norm_epsilon,
        "tie_word_embeddings": config.tied,
        "initializer_range": config.initial_deviation,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
    }


def source_of(name: str, config: BloomConfig) -> Source:
    module, short = name.rsplit(".", 1)
    if module == "output":
        return Source(f"lm_head.{short}")
    if module in _PLAIN:
        return Source(f"{PREFIX}{_PLAIN[module]}.{short}")
    _, index, rest = module.split(".", 2)
    layer = f"{PREFIX}h.{index}."
    if rest in _FUSED:
        return Source(f"{layer}self_attention.query_key_value.{short}", _FUSED[rest], 3, groups=config.heads)
    return Source(f"{layer}{_MODULES[rest]}.{short}")


BLOOM = Adapter({"BloomForCausalLM": "bloom"}, config_from, config_to, source_of, has_no_constants, PREFIX)

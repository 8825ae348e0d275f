"""OPT's folders: OPTForCausalLM, but those whose norms stand behind the parts (OPT 350M)."""

from typing import Any

from hanbit.common.errors import ModelError
from hanbit.config.model import OPTConfig
from hanbit.models.huggingface import Adapter, Source, has_no_constants, number, refuse_uneven, refuse_unless, wanted

PREFIX = "model."
_DECODER = "model.decoder."
_EPSILON = 1e-5  # of every norm; files cannot say another one
_PLAIN = {
    "embedding": "embed_tokens",
    "position_embedding": "embed_positions",
    "norm": "final_layer_norm",
}
_MODULES = {
    "attention_norm": "self_attn_layer_norm",
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.output": "self_attn.out_proj",
    "mlp_norm": "final_layer_norm",
    "mlp.up": "fc1",
    "mlp.down": "fc2",
}


def config_from(config: dict[str, Any]) -> OPTConfig:
    refuse_unless(config, "activation_function", ("relu", "gelu"))
    refuse_unless(config, "do_layer_norm_before", (True,))
    refuse_unless(config, "_remove_final_layer_norm", (False,))
    refuse_unless(config, "enable_bias", (True,))
    refuse_unless(config, "layer_norm_elementwise_affine", (True,))
    hidden, heads = wanted(config, "hidden_size", int, 768), wanted(config, "num_attention_heads", int, 12)
    refuse_unless(config, "word_embed_proj_dim", (hidden, None))
    refuse_uneven("num_attention_heads", heads, "hidden_size", hidden)
    return OPTConfig(
        family="opt",
        activation=config.get("activation_function", "relu"),
        layers=wanted(config, "num_hidden_layers", int, 12),
        hidden=hidden,
        heads=heads,
        inner=wanted(config, "ffn_dim", int, 3072),
        vocabulary=wanted(config, "vocab_size", int, 50272),
        context=wanted(config, "max_position_embeddings", int, 2048),
        norm_epsilon=_EPSILON,
        tied=wanted(config, "tie_word_embeddings", bool, True),
        initial_deviation=number(config, "init_std", 0.02),
    )


def config_to(config: OPTConfig) -> dict[str, Any]:
    if config.norm_epsilon != _EPSILON:
        raise ModelError(f"OPTForCausalLM has model.norm_epsilon={_EPSILON} alone, not {config.norm_epsilon}")
    return {
        "architectures": ["OPTForCausalLM"],
        "model_type": "opt",
        "activation_function": config.activation,
        "num_hidden_layers": config.layers,
        "hidden_size": config.hidden,
        "word_embed_proj_dim": config.hidden,
        "num_attention_heads": config.heads,
        "ffn_dim": config.inner,
        "vocab_size": config.vocabulary,
        "max_position_embeddings": config.context,
        "do_layer_norm_before": True,
        "tie_word_embeddings": config.tied,
        "init_std": config.initial_deviation,
        "pad_token_id": None,  # the default is an everyday token
        # hanbit trains without dropout; a reader that goes on training should not add it unasked
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "layerdrop": 0.0,
    }


def source_of(name: str, config: OPTConfig) -> Source:
    module, short = name.rsplit(".", 1)
    if module == "output":
        return Source(f"lm_head.{short}")
    if module in _PLAIN:
        return Source(f"{_DECODER}{_PLAIN[module]}.{short}")
    _, index, rest = module.split(".", 2)
    return Source(f"{_DECODER}layers.{index}.{_MODULES[rest]}.{short}")


OPT_FOLDERS = Adapter({"OPTForCausalLM": "opt"}, config_from, config_to, source_of, has_no_constants, PREFIX)

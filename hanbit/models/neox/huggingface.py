"""Folders of GPT-NeoX's shape: GPTNeoXForCausalLM (Pythia, Polyglot-Ko), GPTJForCausalLM, PhiForCausalLM (Phi 1 and 2).

Rotated features are a share of a head in two of them (`rotary_pct`, `partial_rotary_factor`), a number in GPT-J's
(`rotary_dim`).
"""

import re
from typing import Any

from hanbit.common.errors import ModelError
from hanbit.config.model import NeoXConfig
from hanbit.models.huggingface import (
    Adapter,
    Source,
    number,
    refuse_uneven,
    refuse_unless,
    under_one_name,
    wanted,
)
from hanbit.models.huggingface_rotary import rotary_in, rotary_to

ARCHITECTURES = {"GPTNeoXForCausalLM": "gpt_neox", "GPTJForCausalLM": "gptj", "PhiForCausalLM": "phi"}
_EXACT, _TANH = ("gelu",), ("gelu_new", "gelu_fast", "gelu_pytorch_tanh")
_GPTJ_NAMES = {
    "n_embd": "hidden_size",
    "n_head": "num_attention_heads",
    "n_layer": "num_hidden_layers",
    "n_positions": "max_position_embeddings",
    "n_inner": "intermediate_size",
    "layer_norm_epsilon": "layer_norm_eps",
    "activation_function": "hidden_act",
}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "gpt_neox": {"hidden_act": "gelu"},
    "gptj": {"hidden_act": "gelu_new", "rotary_dim": 64, "intermediate_size": None},
    "phi": {"hidden_act": "gelu_new", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
}
_BLOCKS = {"gpt_neox": "gpt_neox.layers", "gptj": "transformer.h", "phi": "model.layers"}
_PLAIN = {
    "gpt_neox": {
        "embedding": "gpt_neox.embed_in",
        "norm": "gpt_neox.final_layer_norm",
        "output": "embed_out",
    },
    "gptj": {"embedding": "transformer.wte", "norm": "transformer.ln_f", "output": "lm_head"},
    "phi": {"embedding": "model.embed_tokens", "norm": "model.final_layernorm", "output": "lm_head"},
}
_MODULES = {
    "gpt_neox": {
        "attention_norm": "input_layernorm",
        "attention.output": "attention.dense",
        "mlp_norm": "post_attention_layernorm",
        "mlp.up": "mlp.dense_h_to_4h",
        "mlp.down": "mlp.dense_4h_to_h",
    },
    "gptj": {
        "attention_norm": "ln_1",
        "attention.query": "attn.q_proj",
        "attention.key": "attn.k_proj",
        "attention.value": "attn.v_proj",
        "attention.output": "attn.out_proj",
        "mlp.up": "mlp.fc_in",
        "mlp.down": "mlp.fc_out",
    },
    "phi": {
        "attention_norm": "input_layernorm",
        "attention.query": "self_attn.q_proj",
        "attention.key": "self_attn.k_proj",
        "attention.value": "self_attn.v_proj",
        "attention.output": "self_attn.dense",
        "mlp.up": "mlp.fc1",
        "mlp.down": "mlp.fc2",
    },
}
_FUSED = {"attention.query": 0, "attention.key": 1, "attention.value": 2}  # of GPT-NeoX, head by head
# Causal masks, rotary frequencies and sines, which older versions of transformers saved.
_CONSTANT = re.compile(
    r"((gpt_neox\.)?layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)"
    r"|(transformer\.)?h\.\d+\.attn\.(bias|masked_bias|embed_positions)"
    r"|(model\.)?layers\.\d+\.self_attn\.rotary_emb\.inv_freq)"
)


def config_from(config: dict[str, Any]) -> NeoXConfig:
    kind = config["model_type"]
    if kind == "gptj":
        config = under_one_name(config, {old: new for new, old in _GPTJ_NAMES.items()})
        config = {_GPTJ_NAMES.get(key, key): value for key, value in config.items()}
    config = {**_DEFAULTS[kind], **config}
    refuse_unless(config, "hidden_act", _EXACT + _TANH)
    hidden, heads = wanted(config, "hidden_size", int), wanted(config, "num_attention_heads", int)
    refuse_uneven("num_attention_heads", heads, "hidden_size", hidden)
    inner = wanted(config, "intermediate_size", int) if config["intermediate_size"] is not None else 4 * hidden
    read = {"gpt_neox": _neox_from, "gptj": _gptj_from, "phi": _phi_from}[kind]
    found = NeoXConfig(
        family="neox",
        layers=wanted(config, "num_hidden_layers", int),
        hidden=hidden,
        heads=heads,
        inner=inner,
        vocabulary=wanted(config, "vocab_size", int),
        context=wanted(config, "max_position_embeddings", int, 2048),
        norm_epsilon=number(config, "layer_norm_eps", 1e-5),
        tied=wanted(config, "tie_word_embeddings", bool, False),
        initial_deviation=number(config, "initializer_range", 0.02),
        activation="gelu" if config["hidden_act"] in _EXACT else "gelu_tanh",
        **read(config, hidden // max(heads, 1)),
    )
    rotated = int(found.head_dim * found.rotary_fraction)
    if rotated % 2 or rotated == 0:
        raise ModelError(f"config.json: {rotated} features of a head are rotated, which must be pairs")
    return found


def config_to(config: NeoXConfig) -> dict[str, Any]:
    kind = _kind_of(config)
    common = {
        "architectures": [name for name, its_kind in ARCHITECTURES.items() if its_kind == kind],
        "model_type": kind,
        "hidden_act": "gelu" if config.activation == "gelu" else "gelu_new",
        "num_hidden_layers": config.layers,
        "hidden_size": config.hidden,
        "num_attention_heads": config.heads,
        "intermediate_size": config.inner,
        "vocab_size": config.vocabulary,
        "max_position_embeddings": config.context,
        "layer_norm_eps": config.norm_epsilon,
        "tie_word_embeddings": config.tied,
        "initializer_range": config.initial_deviation,
    }
    if kind == "gptj":
        ours = {new: old for old, new in _GPTJ_NAMES.items()}
        rotated = int(config.head_dim * config.rotary_fraction)
        return {**{ours.get(key, key): value for key, value in common.items()}, "rotary_dim": rotated}
    rotary = rotary_to(config)
    rotary["rope_parameters"] |= {"partial_rotary_factor": config.rotary_fraction}
    if kind == "phi":
        return {**common, **rotary, "partial_rotary_factor": config.rotary_fraction, "qk_layernorm": False}
    return {
        **common,
        **rotary,
        "rope_scaling": rotary["rope_scaling"] and rotary["rope_parameters"],
        "rotary_pct": config.rotary_fraction,
        "rotary_emb_base": config.rotary_base,
        "use_parallel_residual": config.parallel,
        "attention_bias": config.attention_bias,
    }


def source_of(name: str, config: NeoXConfig) -> Source:
    kind = _kind_of(config)
    module, short = name.rsplit(".", 1)
    if module in _PLAIN[kind]:
        return Source(f"{_PLAIN[kind][module]}.{short}")
    _, index, rest = module.split(".", 2)
    layer = f"{_BLOCKS[kind]}.{index}."
    if kind == "gpt_neox" and rest in _FUSED:
        return Source(f"{layer}attention.query_key_value.{short}", _FUSED[rest], 3, groups=config.heads)
    return Source(f"{layer}{_MODULES[kind][rest]}.{short}")


def is_constant(name: str) -> bool:
    return _CONSTANT.fullmatch(name) is not None


def _neox_from(config: dict[str, Any], head_dim: int) -> dict[str, Any]:
    rotary = rotary_in(config, "rotary_emb_base", "rotary_pct", 0.25)
    return {
        **rotary,
        "parallel": wanted(config, "use_parallel_residual", bool, True),
        "attention_bias": wanted(config, "attention_bias", bool, True),
    }


def _gptj_from(config: dict[str, Any], head_dim: int) -> dict[str, Any]:
    rotated = wanted(config, "rotary_dim", int)
    fraction = rotated / max(head_dim, 1)
    if not 0 < rotated <= head_dim or rotated % 2 or int(head_dim * fraction) != rotated:
        raise ModelError(f"config.json: rotary_dim={rotated} is not built for heads of {head_dim} features")
    return {
        "rotary_fraction": fraction,
        "rotary_neighbours": True,
        "shared_norm": True,
        "attention_bias": False,
        "output_bias": True,
    }


def _phi_from(config: dict[str, Any], head_dim: int) -> dict[str, Any]:
    refuse_unless(config, "qk_layernorm", (False,))
    refuse_unless(config, "num_key_value_heads", (None, config["num_attention_heads"]))
    return {**rotary_in(config), "shared_norm": True, "output_bias": True}


def _kind_of(config: NeoXConfig) -> str:
    """The architecture that can say what this config says; ModelError if none can."""
    kinds = {  # shared_norm, rotary_neighbours, output_bias
        (False, False, False): "gpt_neox",
        (True, True, True): "gptj",
        (True, False, True): "phi",
    }
    kind = kinds.get((config.shared_norm, config.rotary_neighbours, config.output_bias))
    is_plain = config.rotary_base == 10000.0 and config.rotary_scaling is None
    can_say = {
        "gpt_neox": True,
        "gptj": is_plain and not config.attention_bias,
        "phi": config.attention_bias,
    }
    if kind is None or not can_say[kind]:
        keys = ("shared_norm", "rotary_neighbours", "output_bias", "attention_bias", "rotary_base", "rotary_scaling")
        found = ", ".join(f"{key}={getattr(config, key)}" for key in keys)
        raise ModelError(f"no Hugging Face architecture that hanbit writes ({', '.join(ARCHITECTURES)}) has {found}")
    return kind


NEOX = Adapter(ARCHITECTURES, config_from, config_to, source_of, is_constant, "gpt_neox.")

"""Folders of MixtralForCausalLM and Qwen3MoeForCausalLM: all but the experts is as in Mistral's and in Qwen3's."""

from typing import Any

from hanbit.common.errors import ModelError
from hanbit.config.model import LlamaConfig, MixtureConfig
from hanbit.models.huggingface import Adapter, Source, number, refuse_unless, wanted
from hanbit.models.llama import huggingface as llama

ARCHITECTURES = {"MixtralForCausalLM": "mixtral", "Qwen3MoeForCausalLM": "qwen3_moe"}
_RELATIVES = {"mixtral": "mistral", "qwen3_moe": "qwen3"}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "mixtral": {"rms_norm_eps": 1e-5, "num_key_value_heads": 8, "rope_theta": 1e6, "sliding_window": None},
    "qwen3_moe": {"rms_norm_eps": 1e-6, "num_key_value_heads": 4},
}
_NAMES = {  # in a sparse layer; {} is the expert's number
    "mixtral": {
        "router.weight": "block_sparse_moe.gate.weight",
        "experts.gate": "block_sparse_moe.experts.{}.w1.weight",
        "experts.up": "block_sparse_moe.experts.{}.w3.weight",
        "experts.down": "block_sparse_moe.experts.{}.w2.weight",
    },
    "qwen3_moe": {
        "router.weight": "mlp.gate.weight",
        "experts.gate": "mlp.experts.{}.gate_proj.weight",
        "experts.up": "mlp.experts.{}.up_proj.weight",
        "experts.down": "mlp.experts.{}.down_proj.weight",
    },
}
_DENSE_KEYS = set(LlamaConfig.model_fields) - {"family"}


def config_from(config: dict[str, Any]) -> MixtureConfig:
    kind = config["model_type"]
    read = {"mixtral": _mixtral_from, "qwen3_moe": _qwen3_moe_from}[kind]
    config = {**_DEFAULTS[kind], **config}
    dense = llama.config_from({**config, **_as_relative(config, kind)})
    return MixtureConfig(
        family="mixture",
        **{key: getattr(dense, key) for key in _DENSE_KEYS},
        **read(config),
        balance_coefficient=number(config, "router_aux_loss_coef", 0.001),
    )


def config_to(config: MixtureConfig) -> dict[str, Any]:
    dense = LlamaConfig(family="llama", **{key: getattr(config, key) for key in _DENSE_KEYS})
    kind = _kind_of(config)
    found = llama.config_as(dense, _RELATIVES[kind])
    own = {"mixtral": _mixtral_to, "qwen3_moe": _qwen3_moe_to}[kind](config)
    return {
        **found,
        "architectures": [name for name, its_kind in ARCHITECTURES.items() if its_kind == kind],
        "model_type": kind,
        "num_experts_per_tok": config.experts_per_token,
        "router_aux_loss_coef": config.balance_coefficient,
        "output_router_logits": False,
        **own,
    }


def source_of(name: str, config: MixtureConfig) -> Source:
    layer, sparse, rest = name.partition(".mlp.")
    index = layer.removeprefix("layers.")
    if not sparse or not config.is_sparse(int(index)):
        return llama.source_of(name, config)
    return Source(f"{llama.PREFIX}layers.{index}.{_NAMES[_kind_of(config)][rest]}")


def _as_relative(config: dict[str, Any], kind: str) -> dict[str, Any]:
    """What the dense relative reads otherwise."""
    changes: dict[str, Any] = {"model_type": _RELATIVES[kind]}
    if kind == "qwen3_moe":
        if config.get("head_dim") is None:
            heads = max(wanted(config, "num_attention_heads", int), 1)
            changes["head_dim"] = wanted(config, "hidden_size", int) // heads
        changes |= {"max_window_layers": 0, "layer_types": None}  # the window is in all layers, or in none
    return changes


def _mixtral_from(config: dict[str, Any]) -> dict[str, Any]:
    refuse_unless(config, "router_jitter_noise", (0.0, 0, None))
    return {
        "experts": _num_experts(config, 8),
        "experts_per_token": wanted(config, "num_experts_per_tok", int, 2),
        "expert_inner": wanted(config, "intermediate_size", int),
        "normalize_weights": True,
    }


def _qwen3_moe_from(config: dict[str, Any]) -> dict[str, Any]:
    refuse_unless(config, "mlp_only_layers", ([], None))
    return {
        "experts": _num_experts(config, 128),
        "experts_per_token": wanted(config, "num_experts_per_tok", int, 8),
        "expert_inner": wanted(config, "moe_intermediate_size", int, 768),
        "normalize_weights": wanted(config, "norm_topk_prob", bool, False),
        "sparse_every": wanted(config, "decoder_sparse_step", int, 1),
    }


def _num_experts(config: dict[str, Any], default: int) -> int:
    """Under either of two names: transformers reads both for both architectures."""
    names = [name for name in ("num_local_experts", "num_experts") if name in config]
    found = {wanted(config, name, int) for name in names}
    if len(found) > 1:
        raise ModelError("config.json: num_local_experts and num_experts are the same, yet differ. Remove one")
    return found.pop() if found else default


def _mixtral_to(config: MixtureConfig) -> dict[str, Any]:
    return {"num_local_experts": config.experts, "router_jitter_noise": 0.0}


def _qwen3_moe_to(config: MixtureConfig) -> dict[str, Any]:
    return {
        "num_experts": config.experts,  # as transformers before 5 has it
        "num_local_experts": config.experts,
        "moe_intermediate_size": config.expert_inner,
        "norm_topk_prob": config.normalize_weights,
        "decoder_sparse_step": config.sparse_every,
        "mlp_only_layers": [],
    }


def _kind_of(config: MixtureConfig) -> str:
    """The architecture that can say what this config says; ModelError if none can."""
    biases = (config.query_key_value_bias, config.attention_output_bias)
    is_all_experts = config.sparse_every == 1 and config.expert_inner == config.inner and config.normalize_weights
    can_say = {
        "mixtral": not config.query_key_norm and biases == (False, False) and is_all_experts,
        "qwen3_moe": config.query_key_norm and biases[0] == biases[1],
    }
    kinds = [kind for kind, can in can_say.items() if can and config.rotary_fraction == 1.0]
    if not kinds:
        biases_and_norms = ("query_key_norm", "query_key_value_bias", "attention_output_bias", "rotary_fraction")
        keys = (*biases_and_norms, "sparse_every", "inner", "expert_inner", "normalize_weights")
        found = ", ".join(f"{key}={getattr(config, key)}" for key in keys)
        raise ModelError(f"no Hugging Face architecture that hanbit writes ({', '.join(ARCHITECTURES)}) has {found}")
    return kinds[0]


MIXTURE = Adapter(ARCHITECTURES, config_from, config_to, source_of, llama.is_constant, llama.PREFIX)

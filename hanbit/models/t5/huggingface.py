"""T5's and mT5's folders. Whether the output projection is scaled is a key of its own there since transformers 5,
before it followed from `tie_word_embeddings`; mT5 never scales.
"""

import re
from typing import Any

from hanbit.common.errors import ModelError
from hanbit.config.model import T5Config
from hanbit.models.huggingface import Adapter, Source, number, refuse_unless, wanted

_PLAIN = {
    "embedding.weight": "shared.weight",
    "encoder_norm.weight": "encoder.final_layer_norm.weight",
    "norm.weight": "decoder.final_layer_norm.weight",
    "output.weight": "lm_head.weight",
}
_BIASES = {"encoder_bias.weight": "encoder", "decoder_bias.weight": "decoder"}
_LETTERS = {"query": "q", "key": "k", "value": "v", "output": "o"}
_GATED, _UNGATED = "gated-gelu", "relu"
# A table that transformers before 4.0 saved and never used.
_WITHOUT_USE = re.compile(r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight")


def config_from(config: dict[str, Any]) -> T5Config:
    is_mt5 = config["model_type"] == "mt5"
    kinds = (_GATED, _UNGATED) if is_mt5 else (_UNGATED, _GATED)
    refuse_unless(config, "feed_forward_proj", kinds)
    kind = config.get("feed_forward_proj", kinds[0])
    refuse_unless(config, "dense_act_fn", ("gelu_new" if kind == _GATED else "relu",))  # would win over it
    layers = wanted(config, "num_layers", int, 8 if is_mt5 else 6)
    decoder_layers = wanted(config, "num_decoder_layers", int, None)
    tied = wanted(config, "tie_word_embeddings", bool, True)
    return T5Config(
        family="t5",
        layers=layers,
        decoder_layers=layers if decoder_layers is None else decoder_layers,
        hidden=wanted(config, "d_model", int, 512),
        heads=wanted(config, "num_heads", int, 6 if is_mt5 else 8),
        head_dim=wanted(config, "d_kv", int, 64),
        inner=wanted(config, "d_ff", int, 1024 if is_mt5 else 2048),
        vocabulary=wanted(config, "vocab_size", int, 250112 if is_mt5 else 32128),
        context=wanted(config, "n_positions", int, 512),
        norm_epsilon=number(config, "layer_norm_epsilon", 1e-6),
        tied=tied,
        gated=kind == _GATED,
        scaled_output=not is_mt5 and wanted(config, "scale_decoder_outputs", bool, tied),
        position_buckets=wanted(config, "relative_attention_num_buckets", int, 32),
        position_distance=wanted(config, "relative_attention_max_distance", int, 128),
        start_token=_start_token(config),
        initial_deviation=number(config, "initializer_factor", 1.0),
    )


def _start_token(config: dict[str, Any]) -> int:
    start = wanted(config, "decoder_start_token_id", int, None)
    return wanted(config, "pad_token_id", int, 0) if start is None else start


def config_to(config: T5Config) -> dict[str, Any]:
    if config.position_distance <= config.position_buckets // 4:
        raise ModelError(
            f"model.position_distance={config.position_distance} must be beyond the buckets of single distances, "
            f"{config.position_buckets // 4}"
        )
    return {
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5",
        "is_encoder_decoder": True,
        "feed_forward_proj": _GATED if config.gated else _UNGATED,
        "num_layers": config.layers,
        "num_decoder_layers": config.decoder_layers,
        "d_model": config.hidden,
        "d_kv": config.head_dim,
        "d_ff": config.inner,
        "num_heads": config.heads,
        "vocab_size": config.vocabulary,
        "n_positions": config.context,
        "layer_norm_epsilon": config.norm_epsilon,
        "tie_word_embeddings": config.tied,
        "scale_decoder_outputs": config.scaled_output,
        "relative_attention_num_buckets": config.position_buckets,
        "relative_attention_max_distance": config.position_distance,
        "decoder_start_token_id": config.start_token,
        "pad_token_id": config.start_token,
        "initializer_factor": config.initial_deviation,
        # hanbit trains without dropout; a reader that goes on training should not add it unasked
        "dropout_rate": 0.0,
    }


def is_constant(name: str) -> bool:
    return _WITHOUT_USE.fullmatch(name) is not None


def source_of(name: str, config: T5Config) -> Source:
    """Where a layer lies depends on how many the encoder has."""
    if name in _PLAIN:
        return Source(_PLAIN[name])
    if name in _BIASES:
        table = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        return Source(f"{_BIASES[name]}.{table}", is_transposed=True)
    _, index, rest = name.split(".", 2)
    return Source(_in_block(int(index), rest.removesuffix(".weight"), config))


def _in_block(index: int, module: str, config: T5Config) -> str:
    is_decoder = index >= config.layers
    block = f"decoder.block.{index - config.layers}" if is_decoder else f"encoder.block.{index}"
    up = "wi_1" if config.gated else "wi"
    last = 2 if is_decoder else 1
    part, _, short = module.partition(".")
    places = {
        "attention_norm": "layer.0.layer_norm",
        "cross_norm": "layer.1.layer_norm",
        "mlp_norm": f"layer.{last}.layer_norm",
        "attention": f"layer.0.SelfAttention.{_LETTERS.get(short)}",
        "cross_attention": f"layer.1.EncDecAttention.{_LETTERS.get(short)}",
        "mlp": f"layer.{last}.DenseReluDense.{({'gate': 'wi_0', 'up': up, 'down': 'wo'}).get(short)}",
    }
    return f"{block}.{places[part]}.weight"


T5 = Adapter(
    {"T5ForConditionalGeneration": "t5", "MT5ForConditionalGeneration": "mt5"},
    config_from,
    config_to,
    source_of,
    is_constant,
    prefix="",
    copies={f"{stack}.embed_tokens.weight": "shared.weight" for stack in ("encoder", "decoder")},
    task="text2text-generation",
    auto_class="AutoModelForSeq2SeqLM",
)

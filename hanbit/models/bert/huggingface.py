"""BERT's folders: BertForPreTraining with both heads, BertForMaskedLM with one, BertModel with none."""

import re
from typing import Any

from hanbit.common.errors import ModelError
from hanbit.config.model import BertConfig
from hanbit.models.huggingface import Adapter, Source, number, refuse_uneven, refuse_unless, wanted

PREFIX = "bert."
_PLAIN = {
    "embedding": "bert.embeddings.word_embeddings",
    "position_embedding": "bert.embeddings.position_embeddings",
    "segment_embedding": "bert.embeddings.token_type_embeddings",
    "embedding_norm": "bert.embeddings.LayerNorm",
    "transform": "cls.predictions.transform.dense",
    "transform_norm": "cls.predictions.transform.LayerNorm",
    "pooler": "bert.pooler.dense",
    "order": "cls.seq_relationship",
}
_OUTPUT = {"weight": "cls.predictions.decoder.weight", "bias": "cls.predictions.bias"}
_MODULES = {
    "attention.query": "attention.self.query",
    "attention.key": "attention.self.key",
    "attention.value": "attention.self.value",
    "attention.output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "mlp.up": "intermediate.dense",
    "mlp.down": "output.dense",
    "mlp_norm": "output.LayerNorm",
}
# position_ids: transformers before 4.31 saved them. The pooler and the second head lie in files that name only the
# first one's architecture (bert-base-uncased is such a file), and are no part of that model; nor is the pooler of what
# makes embeddings out of hidden states.
_WITHOUT_USE = re.compile(r"(bert\.)?(embeddings\.position_ids|pooler\.dense\.(weight|bias))|cls\.seq_relationship\..*")


def config_from(config: dict[str, Any]) -> BertConfig:
    refuse_unless(config, "hidden_act", ("gelu",))
    refuse_unless(config, "position_embedding_type", ("absolute", None))
    refuse_unless(config, "is_decoder", (False,))
    refuse_unless(config, "add_cross_attention", (False,))
    refuse_unless(config, "tie_word_embeddings", (True,))
    hidden, heads = wanted(config, "hidden_size", int, 768), wanted(config, "num_attention_heads", int, 12)
    refuse_uneven("num_attention_heads", heads, "hidden_size", hidden)
    return BertConfig(
        family="bert",
        layers=wanted(config, "num_hidden_layers", int, 12),
        hidden=hidden,
        heads=heads,
        inner=wanted(config, "intermediate_size", int, 3072),
        vocabulary=wanted(config, "vocab_size", int, 30522),
        context=wanted(config, "max_position_embeddings", int, 512),
        segments=wanted(config, "type_vocab_size", int, 2),
        norm_epsilon=number(config, "layer_norm_eps", 1e-12),
        tied=True,
        initial_deviation=number(config, "initializer_range", 0.02),
        word_head=config["architectures"] != ["BertModel"],
        sentence_order=config["architectures"] == ["BertForPreTraining"],
    )


def config_to(config: BertConfig) -> dict[str, Any]:
    if not config.tied:  # transformers then has two biases, of which it uses one
        raise ModelError("no Hugging Face architecture that hanbit writes for bert has model.tied=false")
    with_head = "BertForPreTraining" if config.sentence_order else "BertForMaskedLM"
    return {
        "architectures": [with_head if config.word_head else "BertModel"],
        "model_type": "bert",
        "hidden_act": "gelu",
        "num_hidden_layers": config.layers,
        "hidden_size": config.hidden,
        "num_attention_heads": config.heads,
        "intermediate_size": config.inner,
        "vocab_size": config.vocabulary,
        "max_position_embeddings": config.context,
        "type_vocab_size": config.segments,
        "layer_norm_eps": config.norm_epsilon,
        "tie_word_embeddings": True,
        "initializer_range": config.initial_deviation,
        "pad_token_id": None,  # a padding id only keeps that embedding at zero there; here padding is masked
        # hanbit trains without dropout; a reader that goes on training should not add it unasked
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }


def source_of(name: str, config: BertConfig) -> Source:
    """A model without heads is the whole of its file, whose names have no prefix then."""
    stored = _name_beside_heads(name)
    return Source(stored if config.word_head else stored.removeprefix(PREFIX))


def _name_beside_heads(name: str) -> str:
    module, short = name.rsplit(".", 1)
    if module == "output":
        return _OUTPUT[short]
    if module in _PLAIN:
        return f"{_PLAIN[module]}.{short}"
    _, index, rest = module.split(".", 2)
    return f"{PREFIX}encoder.layer.{index}.{_MODULES[rest]}.{short}"


def is_constant(name: str) -> bool:
    return _WITHOUT_USE.fullmatch(name) is not None


def current_name(name: str) -> str:
    """Files made from TensorFlow's call a norm's numbers gamma and beta."""
    return re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name))


BERT = Adapter(
    {"BertForPreTraining": "bert", "BertForMaskedLM": "bert", "BertModel": "bert"},
    config_from,
    config_to,
    source_of,
    is_constant,
    PREFIX,
    copies={"cls.predictions.decoder.bias": "cls.predictions.bias"},
    current_name=current_name,
    task="fill-mask",
    auto_class="AutoModelForMaskedLM",
    cards={
        "BertForPreTraining": ("fill-mask", "AutoModelForPreTraining"),
        "BertModel": ("feature-extraction", "AutoModel"),
    },
)

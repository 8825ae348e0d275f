"""BERT and T5 against transformers' own, fp32, on random small configurations, with padding; and back."""

import copy
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    MT5Config,
    MT5ForConditionalGeneration,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from hanbit.checkpoint.model_folder import load_model, read_config, read_tensors, save_model
from hanbit.common.errors import GenerationError, ModelError
from hanbit.convert.convert import convert
from hanbit.engine.llm import LLM
from hanbit.models.layers.attend import bidirectional, encoder_decoder
from hanbit.models.t5.plan import used_by
from tests.models.shapes import shake

BERT: dict[str, Any] = {
    "vocab_size": 131, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 4,
    "max_position_embeddings": 64,
}  # fmt: skip
T5: dict[str, Any] = {
    "vocab_size": 131, "d_model": 48, "d_kv": 8, "d_ff": 80, "num_layers": 3, "num_decoder_layers": 2, "num_heads": 4,
    "decoder_start_token_id": 0,
}  # fmt: skip
SMALL_VALUES = {"initializer_factor": 0.4}  # where nothing scales the output, logits of 1, not of 10

BERTS = {
    "pre-training": (BertForPreTraining, BertConfig(**BERT)),
    "masked words, three segments": (BertForMaskedLM, BertConfig(**BERT, type_vocab_size=3)),
}
T5S = {
    "t5": (T5ForConditionalGeneration, T5Config(**T5)),
    "t5 gated, not scaled": (
        T5ForConditionalGeneration,
        T5Config(**T5, **SMALL_VALUES, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    ),
    "t5 few buckets": (
        T5ForConditionalGeneration,
        T5Config(**T5, relative_attention_num_buckets=8, relative_attention_max_distance=12),
    ),
    "mt5": (MT5ForConditionalGeneration, MT5Config(**T5, **SMALL_VALUES)),
    "mt5 without gates": (MT5ForConditionalGeneration, MT5Config(**T5, **SMALL_VALUES, feed_forward_proj="relu")),
}  # fmt: skip
TOKENS = torch.randint(131, (3, 40), generator=torch.Generator().manual_seed(0))
SEGMENTS = torch.randint(2, (3, 40), generator=torch.Generator().manual_seed(1))
OTHERS = torch.randint(131, (3, 25), generator=torch.Generator().manual_seed(2))
PRESENT = torch.arange(40) < torch.tensor([[40], [31], [1]])


def made(kind: type, config: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    model = kind(config).eval()
    shake(model)
    return model


def bert_logits(folder: Path) -> tuple[torch.Tensor, ...]:
    model = load_model(folder)
    with torch.no_grad():
        (hidden,) = model.advance((), {"tokens": TOKENS, "segments": SEGMENTS}, bidirectional(PRESENT))
        words = model.head(hidden)[PRESENT]
        return (words, model.order_of(hidden)) if model.config.sentence_order else (words,)


def bert_wanted(model: PreTrainedModel) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        found = model(input_ids=TOKENS, token_type_ids=SEGMENTS, attention_mask=PRESENT.long())
    if isinstance(model, BertForMaskedLM):
        return (found.logits[PRESENT],)
    return found.prediction_logits[PRESENT], found.seq_relationship_logits


def t5_logits(folder: Path) -> tuple[torch.Tensor, ...]:
    model = load_model(folder)
    with torch.no_grad():
        batch = {"tokens": TOKENS, "decoder_tokens": OTHERS}
        hidden, encoded = model.advance((), batch, encoder_decoder(PRESENT))
        return model.head(hidden), encoded[PRESENT]


def t5_wanted(model: PreTrainedModel) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        found = model(input_ids=TOKENS, attention_mask=PRESENT.long(), decoder_input_ids=OTHERS)
    return found.logits, found.encoder_last_hidden_state[PRESENT]


CASES = [(f"bert {name}", *case, bert_logits, bert_wanted) for name, case in BERTS.items()]
CASES += [(name, *case, t5_logits, t5_wanted) for name, case in T5S.items()]


@pytest.mark.parametrize(("name", "kind", "config", "ours", "wanted_of"), CASES, ids=[case[0] for case in CASES])
def test_logits_equal_transformers_with_padding_and_our_folder_loads_there(
    name: str, kind: Any, config: Any, ours: Any, wanted_of: Any, tmp_path: Path
) -> None:
    theirs = made(kind, config)
    theirs.save_pretrained(tmp_path / "theirs")
    wanted = wanted_of(theirs)
    assert wanted[0].std() > 0.5, "logits that hardly vary would prove nothing"
    for found, expected in zip(ours(tmp_path / "theirs"), wanted, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)

    read = read_config(tmp_path / "theirs")
    save_model(tmp_path / "ours", read, dict(read_tensors(tmp_path / "theirs")), None, facts={})
    assert read_config(tmp_path / "ours") == read
    kind = T5ForConditionalGeneration if read.family == "t5" else kind  # mT5 is a T5 whose output is not scaled
    reloaded, info = kind.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    for found, expected in zip(wanted_of(reloaded.eval()), wanted, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def rewritten(folder: Path, changes: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_output_projection_of_its_own_is_read_and_written(tmp_path: Path) -> None:
    """T5 1.1 and mT5 as Google published them: `tie_word_embeddings` false, and an lm_head."""
    model = made(*T5S["t5 gated, not scaled"])
    model.save_pretrained(tmp_path)
    weight = torch.randn(131, 48, generator=torch.Generator().manual_seed(5))
    tensors = load_file(tmp_path / "model.safetensors")
    rewritten(tmp_path, {"tie_word_embeddings": False}, {**tensors, "lm_head.weight": weight})
    theirs = T5ForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert torch.equal(theirs.lm_head.weight, weight)
    torch.testing.assert_close(t5_logits(tmp_path)[0], t5_wanted(theirs)[0], rtol=0, atol=1e-4)
    save_model(tmp_path / "ours", read_config(tmp_path), dict(read_tensors(tmp_path)), None, facts={})
    again = T5ForConditionalGeneration.from_pretrained(tmp_path / "ours").eval()
    torch.testing.assert_close(t5_wanted(again)[0], t5_wanted(theirs)[0], rtol=0, atol=1e-5)


def test_scale_of_an_old_t5_follows_from_its_tie(tmp_path: Path) -> None:
    """Files from before transformers 5 have no key for it."""
    model = made(*T5S["t5"])
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    del config["scale_decoder_outputs"]
    path.write_text(json.dumps(config))
    assert read_config(tmp_path).scaled_output
    path.write_text(json.dumps({**config, "tie_word_embeddings": False}))
    assert not read_config(tmp_path).scaled_output


def test_bert_by_its_old_names_and_with_heads_that_its_architecture_does_not_have(tmp_path: Path) -> None:
    """bert-base-uncased: gamma and beta, copies of tied tensors, and the second head beside BertForMaskedLM."""
    model = made(*BERTS["pre-training"])
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    old = {name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
           for name, tensor in tensors.items()}  # fmt: skip
    old["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"].clone()
    old["cls.predictions.decoder.bias"] = tensors["cls.predictions.bias"].clone()
    rewritten(tmp_path, {"architectures": ["BertForMaskedLM"]}, old)
    (words,) = bert_logits(tmp_path)
    torch.testing.assert_close(words, bert_wanted(model)[0], rtol=0, atol=1e-4)
    old["cls.predictions.decoder.bias"] += 1
    rewritten(tmp_path, {}, old)
    with pytest.raises(ModelError, match=r"cls\.predictions\.decoder\.bias"):
        read_tensors(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden_act": "relu"}, "hidden_act='relu'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"is_decoder": True}, "is_decoder=True"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings=False"),
        ({"num_attention_heads": 5}, "num_attention_heads=5 does not divide hidden_size=48"),
    ],
    ids=str,
)
def test_bert_that_is_not_built_is_refused_by_key_and_value(change: dict, words: str, tmp_path: Path) -> None:
    config = {**BERTS["pre-training"][1].to_dict(), "architectures": ["BertForPreTraining"], **change}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=words):
        read_config(tmp_path)


def test_activation_that_t5_has_not_here_is_refused(tmp_path: Path) -> None:
    config = {**T5S["t5"][1].to_dict(), "architectures": ["T5ForConditionalGeneration"]}
    (tmp_path / "config.json").write_text(json.dumps({**config, "feed_forward_proj": "gated-silu"}))
    with pytest.raises(ModelError, match="feed_forward_proj='gated-silu'"):
        read_config(tmp_path)


def test_stages_with_their_parts_alone_make_the_whole_t5(tmp_path: Path) -> None:
    """Cut anywhere: in the encoder, at its end, in the decoder."""
    made(*T5S["t5"]).save_pretrained(tmp_path)
    whole = load_model(tmp_path)
    attend = encoder_decoder(PRESENT)
    batch = {"tokens": TOKENS, "decoder_tokens": OTHERS}
    wanted = whole.head(whole.advance((), batch, attend)[0])
    for borders in ((0, 2, 5), (0, 3, 5), (0, 1, 4, 5)):
        carried: tuple[torch.Tensor, ...] = ()
        for start, end in itertools.pairwise(borders):
            stage = copy.deepcopy(whole)
            for key in set(stage.layers) - {str(index) for index in range(start, end)}:
                del stage.layers[key]
            for name, layers in used_by(whole.config).items():
                if not set(layers) & set(range(start, end)):
                    delattr(stage, name)
            carried = stage.advance(carried, batch, attend)
            assert len(carried) == (2 if end > 3 else 1)
        assert torch.equal(stage.head(carried[0]), wanted)


def test_generating_with_a_bert_is_refused_by_name(tmp_path: Path) -> None:
    made(*BERTS["pre-training"]).save_pretrained(tmp_path / "bert")
    with pytest.raises(GenerationError, match="is a bert model"):
        LLM(tmp_path / "bert")


@pytest.mark.parametrize("name", ["t5", "mt5", "t5 gated, not scaled"])
def test_t5_is_converted_with_its_logits(name: str, tmp_path: Path) -> None:
    theirs = made(*T5S[name])
    theirs.save_pretrained(tmp_path / "model")
    found = convert(tmp_path / "model", tmp_path / "other").proof
    assert found is not None
    assert found["logits_difference"] == 0
    assert found["tensors"] == len(load_file(tmp_path / "other" / "model.safetensors"))
    for ours, wanted in zip(t5_logits(tmp_path / "other"), t5_wanted(theirs), strict=True):
        torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-4)
    with pytest.raises(ModelError, match="is a t5 model: vocabularies grow"):
        convert(tmp_path / "model", tmp_path / "rounded", quantize="int8")


def test_bert_with_its_heads_is_converted_with_its_logits(tmp_path: Path) -> None:
    kind, config = BERTS["pre-training"]
    theirs = made(kind, config)
    theirs.save_pretrained(tmp_path / "model")
    found = convert(tmp_path / "model", tmp_path / "other").proof
    assert found is not None
    assert "compared" not in found
    for ours, wanted in zip(bert_logits(tmp_path / "other"), bert_wanted(theirs), strict=True):
        torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-4)

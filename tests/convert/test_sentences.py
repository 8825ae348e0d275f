"""Folders of sentence-transformers through `convert`: the same vectors, for us and for transformers."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import BertModel

from hanbit import Embedder, convert
from hanbit.checkpoint.model_folder import read_config
from hanbit.common.errors import ConfigError, FormatError, ModelError
from tests.engine.bert_folders import TEXTS, wanted, write_bert_folder


def test_vectors_and_their_settings_are_kept_and_proven(tmp_path: Path) -> None:
    source = write_bert_folder(tmp_path / "source", "cls_token", normalize=True, max_seq_length=60)
    made = convert(source, tmp_path / "out")
    assert made.proof is not None
    assert made.proof["compared"] == "hidden states"
    assert made.proof["logits_difference"] == 0
    assert made.proof["tensors"] == len(load_file(source / "model.safetensors")) - 2  # all but the pooler
    ours, theirs = Embedder(tmp_path / "out", device="cpu"), Embedder(source, device="cpu")
    assert ours.settings == theirs.settings
    assert torch.equal(ours.embed(TEXTS), theirs.embed(TEXTS))
    model, info = BertModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert {name.split(".")[0] for name in info["missing_keys"]} <= {"pooler"}
    expected = wanted(model.eval(), [ours.encode(text) for text in TEXTS], "cls_token")
    torch.testing.assert_close(ours.embed(TEXTS, normalize=False), expected, rtol=0, atol=1e-5)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "pipeline_tag: feature-extraction" in card
    assert "AutoModel.from_pretrained" in card


def test_it_is_done_once_and_again_where_how_texts_become_vectors_has_changed(tmp_path: Path) -> None:
    source = write_bert_folder(tmp_path / "source")
    convert(source, tmp_path / "out")
    assert convert(source, tmp_path / "out").was_there
    (source / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    assert not convert(source, tmp_path / "out").was_there
    assert Embedder(tmp_path / "out", device="cpu").settings.pooling == "cls"
    listed = json.loads((tmp_path / "out" / "hanbit.json").read_text())["files"]
    assert "1_Pooling/config.json" in listed
    (tmp_path / "out" / "1_Pooling" / "mine.txt").write_text("notes")
    with pytest.raises(ModelError, match=r"also holds 1_Pooling/mine\.txt, which would be lost"):
        convert(source, tmp_path / "out", dtype="bfloat16")


def test_numbers_in_half_are_read_again(tmp_path: Path) -> None:
    source = write_bert_folder(tmp_path / "source")
    convert(source, tmp_path / "out", dtype="bfloat16")
    config = read_config(tmp_path / "out")
    assert config == read_config(source)
    near = Embedder(tmp_path / "out", device="cpu").embed(TEXTS)
    torch.testing.assert_close(near, Embedder(source, device="cpu").embed(TEXTS), rtol=0, atol=0.1)


def test_what_is_for_models_of_the_next_token_is_refused(tmp_path: Path) -> None:
    source = write_bert_folder(tmp_path / "source")
    for options in ({"quantize": "int8"}, {"extend_vocabulary": "python-docs"}):
        with pytest.raises(ModelError, match="is a bert model: vocabularies grow and matrices are rounded in models"):
            convert(source, tmp_path / "out", **options)
    with pytest.raises(FormatError, match="there are no blocks to keep"):
        convert(source, tmp_path / "out", keep_blocks=True)
    with pytest.raises(ConfigError, match="is the source itself"):
        convert(source, source)
    assert not (tmp_path / "out").exists()

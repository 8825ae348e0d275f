"""A small tokenizer trained on mixed text, once per session."""

from pathlib import Path

import pytest

from hanbit.tokenizers import train
from hanbit.tokenizers.load import load
from hanbit.tokenizers.tokenizer import Tokenizer

TEXTS = [
    "대한민국은 민주공화국이다. 대한민국의 주권은 국민에게 있고, 모든 권력은 국민으로부터 나온다.",
    "The quick brown fox jumps over the lazy dog. It's 2024, we're 100% sure.",
    "def add(a, b):\n    return a + b  # 두 수의 합\n",
    "ㅋㅋㅋ 안녕하세요 Python을 배워요 😀👍🏽 1234567",
] * 5


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    train.save(train.train(TEXTS, 400), path)
    return path


@pytest.fixture(scope="session")
def tokenizer(folder: Path) -> Tokenizer:
    return load(folder)

"""Texts in pieces beside the same texts whole, for every kind of tokenizer that is cut and some that must not be."""

import json
import sysconfig
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from hanbit.tokenizers import cut as cutting
from hanbit.tokenizers import train

_WORDS = sorted(cutting._SAFE_WORDS)
_TEXTS = ["one two\n\nthree don't\n  it's 12,345\r\nfor\n", "한국어 문장\n둘째 줄이다\n\n", "a\tb\n\n\n\tc();\n}\n"] * 4


def _steps() -> dict[str, pre_tokenizers.PreTokenizer]:
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2])
    split = {
        f"split {index}": pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(words), "isolated"), plain])
        for index, words in enumerate(_WORDS)
    }
    return {"gpt2": gpt2, "smollm2": digits, **split}


def _trained(step: pre_tokenizers.PreTokenizer, normalizer: normalizers.Normalizer | None = None) -> Tokenizer:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = step
    if normalizer is not None:
        core.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=700, initial_alphabet=sorted(alphabet), show_progress=False)
    core.train_from_iterator([*_TEXTS, Path(json.__file__).read_text()], trainer)
    core.encode_special_tokens = True
    return core


@pytest.fixture(scope="module")
def cores() -> dict[str, Tokenizer]:
    return {name: _trained(step, normalizers.NFC()) for name, step in _steps().items()}


_letters = st.sampled_from(
    ["a", "B", "가", "힣", "é", "e\u0301", "ᄒ", "ᅡ", "1", "²", "_", "'s", ".", "!", " ", "\n", "\r", "\t", "\u3000"]
)


@given(st.lists(_letters, max_size=60).map("".join))
@settings(max_examples=150, deadline=None)
def test_pieces_give_the_tokens_of_the_whole(cores: dict[str, Tokenizer], text: str) -> None:
    pieces = _in_small_pieces(text)
    assert "".join(pieces) == text
    for core in cores.values():
        whole = core.encode(text, add_special_tokens=False).ids
        parts = [id for piece in pieces for id in core.encode(piece, add_special_tokens=False).ids]
        assert parts == whole


def _in_small_pieces(text: str) -> list[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cutting, "_PIECE", 1)
        return cutting.cut(text)


def test_source_code_gives_the_tokens_of_the_whole(cores: dict[str, Tokenizer]) -> None:
    text = (Path(sysconfig.get_paths()["stdlib"]) / "typing.py").read_text(encoding="utf-8")
    pieces = cutting.cutter(cores["smollm2"])(text)
    assert len(pieces) > 20
    for core in cores.values():
        parts = [id for found in core.encode_batch_fast(pieces, add_special_tokens=False) for id in found.ids]
        assert parts == core.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("name", _steps())
def test_known_patterns_are_cut(cores: dict[str, Tokenizer], name: str) -> None:
    assert cutting.cutter(cores[name]) is cutting.cut


def test_what_hanbit_trains_is_cut() -> None:
    assert cutting.cutter(train.untrained()) is cutting.cut


def _unsafe() -> dict[str, Tokenizer]:
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tagged = _trained(gpt2)
    tagged.add_tokens(["a\nb"])
    stripping = _trained(gpt2)
    stripping.add_tokens([AddedToken("<tag>", lstrip=True)])
    sentencepiece = Tokenizer(models.Unigram([("▁", -1.0), ("a", -2.0)]))
    sentencepiece.pre_tokenizer = pre_tokenizers.Metaspace()
    return {
        "prefix space": _trained(pre_tokenizers.ByteLevel(add_prefix_space=True)),
        "unknown pattern": _trained(pre_tokenizers.Split(Regex(r"[a-z\n]+|."), "isolated")),
        "another normaliser": _trained(gpt2, normalizers.Strip()),
        "a token over lines": tagged,
        "a token that strips": stripping,
        "metaspace": sentencepiece,
        "nothing": Tokenizer(models.BPE()),
    }


def test_others_are_left_whole() -> None:
    for name, core in _unsafe().items():
        assert cutting.cutter(core)("a\nb" * 5000) == ["a\nb" * 5000], name

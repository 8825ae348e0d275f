"""Texts by their words beside the same texts whole, for every kind of tokenizer that is cut and some that are not."""

import json
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from hanbit.tokenizers import train, words
from hanbit.tokenizers.words import Encoder, parts_of

_PATTERNS = sorted(words._KNOWN_PATTERNS)
_TEXTS = ["one two\n\nthree don't\n  it's 12,345\r\nfor\n", "한국어 문장\n둘째 줄이다\n\n", "a\tb\n\n\n\tc();\n}\n"] * 4


def _steps() -> dict[str, pre_tokenizers.PreTokenizer]:
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2])
    split = {
        f"split {index}": pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), plain])
        for index, pattern in enumerate(_PATTERNS)
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


_letters = st.sampled_from([*"aBs가힣é하中12²½_'.!。\x1c\0 \n\r\t\u3000\u200b", "e\u0301", " ", "  "])
_text = st.lists(_letters, max_size=60).map("".join)


@given(_text | st.text(max_size=60))
@settings(max_examples=400, deadline=None)
def test_words_give_the_tokens_of_the_whole(cores: dict[str, Tokenizer], text: str) -> None:
    for name, core in cores.items():
        parts = parts_of(core)(text)
        assert "".join(parts) == text
        whole = core.encode(text, add_special_tokens=False).ids
        assert [id for part in parts for id in core.encode(part, add_special_tokens=False).ids] == whole, name


def test_source_code_and_korean_give_the_tokens_of_the_whole(cores: dict[str, Tokenizer]) -> None:
    library = Path(sysconfig.get_paths()["stdlib"])
    texts = [(library / name).read_text(encoding="utf-8") for name in ("typing.py", "json/decoder.py", "this.py")]
    texts += [*_TEXTS, "", "한국어 문장이다. 「이름」은 3개,\n\n  둘째 줄.\n" * 20]
    for core in cores.values():
        found = Encoder(core, np.dtype("<u2")).encode(texts)
        whole = [core.encode(text, add_special_tokens=False).ids for text in texts]
        assert [ids.tolist() for ids in found] == whole


def test_what_is_repeated_goes_to_the_library_once(cores: dict[str, Tokenizer]) -> None:
    encoder = Encoder(cores["smollm2"], np.dtype("<u2"))
    (first,) = encoder.encode(["the same words, the same words\n"])
    known = dict(encoder._known)
    (second,) = encoder.encode(["the same words, the same words\n"])
    assert first.tolist() == second.tolist()
    assert encoder._known == known
    assert set(known) == {"the", " same", " words", ",", " the", "\n"}


def test_memory_is_bounded_and_forgetting_changes_nothing(
    cores: dict[str, Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(words, "_KEPT_CHARACTERS", 100)
    core = cores["gpt2"]
    encoder = Encoder(core, np.dtype("<i4"))
    for number in range(50):
        text = f"line{number} of some words\n"
        (ids,) = encoder.encode([text])
        assert ids.tolist() == core.encode(text, add_special_tokens=False).ids
        assert sum(map(len, encoder._known)) < 100 + len(text)


@pytest.mark.parametrize("name", _steps())
def test_known_patterns_are_cut(cores: dict[str, Tokenizer], name: str) -> None:
    assert len(parts_of(cores[name])("one two\nthree")) == 3


def test_what_hanbit_trains_is_cut() -> None:
    assert len(parts_of(train.untrained())("one two\nthree")) == 3


def test_a_text_with_a_tag_that_the_tokenizer_adds_stays_whole() -> None:
    core = _trained(pre_tokenizers.ByteLevel(add_prefix_space=False))
    core.add_tokens(["<tool_call>", AddedToken("<tag>", lstrip=True)])
    texts = ["one two <tool_call> three", "one two  <tag> three", "one two three <tool"]
    assert [len(parts_of(core)(text)) for text in texts] == [1, 1, 4]
    found = Encoder(core, np.dtype("<u2")).encode(texts)
    assert [ids.tolist() for ids in found] == [core.encode(text, add_special_tokens=False).ids for text in texts]


@pytest.mark.parametrize("content", ["caf\u00e9 ol\u00e9", "cafe\u0301 ole\u0301"])
@pytest.mark.parametrize("is_normalized", [True, False])
def test_a_tag_is_found_in_whatever_form_it_is_written(content: str, is_normalized: bool) -> None:
    core = _trained(pre_tokenizers.ByteLevel(add_prefix_space=False), normalizers.NFC())
    core.add_tokens([AddedToken(content, normalized=is_normalized)])
    texts = ["a caf\u00e9 ol\u00e9 b", "a cafe\u0301 ole\u0301 b", "a b"]
    found = Encoder(core, np.dtype("<u2")).encode(texts)
    assert [ids.tolist() for ids in found] == [core.encode(text, add_special_tokens=False).ids for text in texts]


def _unsafe() -> dict[str, Tokenizer]:
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
    dropping = _trained(gpt2)
    dropping.model.dropout = 0.1
    sentencepiece = Tokenizer(models.Unigram([("▁", -1.0), ("a", -2.0)]))
    sentencepiece.pre_tokenizer = pre_tokenizers.Metaspace()
    return {
        "prefix space": _trained(pre_tokenizers.ByteLevel(add_prefix_space=True)),
        "unknown pattern": _trained(pre_tokenizers.Split(Regex(r"[a-z\n]+|."), "isolated")),
        "another normaliser": _trained(gpt2, normalizers.Strip()),
        "two patterns": _trained(pre_tokenizers.Sequence([gpt2, pre_tokenizers.Whitespace()])),
        "bytes before the pattern": _trained(
            pre_tokenizers.Sequence(
                [
                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
                    pre_tokenizers.Split(Regex(_PATTERNS[0]), "isolated"),
                ]
            )
        ),
        "merges left out by chance": dropping,
        "metaspace": sentencepiece,
        "nothing": Tokenizer(models.BPE()),
    }


def test_others_are_left_whole() -> None:
    for name, core in _unsafe().items():
        assert parts_of(core)("a\nb" * 5000) == ["a\nb" * 5000], name

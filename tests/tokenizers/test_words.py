"""Texts by their words beside the same texts whole, for every kind of tokenizer that is cut and some that are not.

The native cut is compared with Python's patterns, which is how the two that are written down stay one.
"""

import json
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from hanbit.kernels.library import Native, native
from hanbit.tokenizers import train, words
from hanbit.tokenizers.native_words import NativeWords
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


@pytest.fixture(scope="module")
def built() -> Native:
    found = native()
    if found is None:
        pytest.skip("no native library")
    return found


@pytest.fixture(scope="module", params=["python", "native"])
def kernels(request: pytest.FixtureRequest) -> Native | None:
    return request.getfixturevalue("built") if request.param == "native" else None


@pytest.fixture(scope="module")
def encoders(cores: dict[str, Tokenizer], kernels: Native | None) -> dict[str, Encoder]:
    return {name: Encoder(core, np.dtype("<u2"), kernels) for name, core in cores.items()}


def _whole(core: Tokenizer, texts: list[str]) -> list[list[int]]:
    return [core.encode(text, add_special_tokens=False).ids for text in texts]


def _found(encoder: Encoder, texts: list[str]) -> list[list[int]]:
    return [ids.tolist() for ids in encoder.encode(texts)]


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


class _Cutting:
    """The native cut of texts: every word has its number for an id, so that ids say what the words were."""

    def __init__(self, built: Native, by_gpt2: bool) -> None:
        self.pattern = words._BY_GPT2 if by_gpt2 else words._BY_WORDS
        self.numbers: dict[str, int] = {}
        self.asked: list[str] = []
        self._native = NativeWords(built.library, by_gpt2, self._ids_of, most_words=1000)

    def _ids_of(self, new: list[str]) -> list[list[int]]:
        self.asked += new
        return [[self.numbers.setdefault(word, len(self.numbers))] for word in new]

    def __call__(self, texts: list[str], are_cut: list[bool]) -> list[list[str]]:
        tokens, ends = self._native.encode(texts, are_cut)
        by_number = list(self.numbers)
        return [[by_number[token] for token in of_text] for of_text in np.split(tokens, ends[:-1])]


@pytest.fixture(scope="module", params=["gpt2", "words"])
def cut(request: pytest.FixtureRequest, built: Native) -> _Cutting:
    return _Cutting(built, request.param == "gpt2")


@given(st.lists(st.tuples(_text | st.text(max_size=60), st.booleans()), min_size=1, max_size=5))
@settings(max_examples=500, deadline=None)
def test_native_cuts_are_those_of_the_pattern(cut: _Cutting, drawn: list[tuple[str, bool]]) -> None:
    expected = [cut.pattern.findall(text) if is_cut else [text] if text else [] for text, is_cut in drawn]
    assert cut([text for text, _ in drawn], [is_cut for _, is_cut in drawn]) == expected


def test_every_character_is_of_the_same_kind_in_both(cut: _Cutting) -> None:
    codes = [*range(0xD800), *range(0xE000, 0x10000), *range(0x10000, 0x110000, 0x101)]
    texts = [f"a{chr(code)} b{chr(code)}{chr(code)}\n.{chr(code)}\n 1{chr(code)}a" for code in codes]
    assert cut(texts, [True] * len(texts)) == [cut.pattern.findall(text) for text in texts]


@given(st.lists(_text | st.text(max_size=60), max_size=4))
@settings(max_examples=200, deadline=None)
def test_drawn_texts_have_the_tokens_of_the_whole(
    cores: dict[str, Tokenizer], encoders: dict[str, Encoder], texts: list[str]
) -> None:
    for name, encoder in encoders.items():
        assert _found(encoder, texts) == _whole(cores[name], texts), name


def test_source_code_and_korean_have_the_tokens_of_the_whole(
    cores: dict[str, Tokenizer], encoders: dict[str, Encoder]
) -> None:
    library = Path(sysconfig.get_paths()["stdlib"])
    texts = [(library / name).read_text(encoding="utf-8") for name in ("typing.py", "json/decoder.py", "this.py")]
    texts += [*_TEXTS, "", "한국어 문장이다. 「이름」은 3개,\n\n  둘째 줄.\n" * 20]
    texts += ["word" * 100, "가나다" * 100, " " * 1000, "\n" * 300 + "!" * 300]  # longer than what is remembered
    for name, encoder in encoders.items():
        assert _found(encoder, texts) == _whole(cores[name], texts)
        assert encoder.encode(texts)[0].dtype == np.dtype("<u2")
        assert encoder.encode([]) == []


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What encoders made from now on give to the library."""
    found: list[str] = []
    before = words._ids_of

    def recorded(core: Tokenizer, parts: list[str]) -> list[list[int]]:
        found.extend(parts)
        return before(core, parts)

    monkeypatch.setattr(words, "_ids_of", recorded)
    return found


def test_what_is_repeated_goes_to_the_library_once(
    cores: dict[str, Tokenizer], kernels: Native | None, asked: list[str]
) -> None:
    encoder = Encoder(cores["smollm2"], np.dtype("<u2"), kernels)
    texts = ["the same words, the same words\n", "words, the\n"]
    assert _found(encoder, texts) == _found(encoder, texts) == _whole(cores["smollm2"], texts)
    assert sorted(asked) == sorted({"the", " same", " words", ",", " the", "\n", "words"})


def test_memory_is_bounded_and_forgetting_changes_nothing(
    cores: dict[str, Tokenizer], kernels: Native | None, monkeypatch: pytest.MonkeyPatch, asked: list[str]
) -> None:
    monkeypatch.setattr(words, "_KEPT_CHARACTERS", 100)
    monkeypatch.setattr(words, "MOST_WORDS", 20)
    encoder = Encoder(cores["gpt2"], np.dtype("<i4"), kernels)
    for number in range(50):
        text = f"line{number} of some words\n"
        assert _found(encoder, [text]) == _whole(cores["gpt2"], [text])
        assert sum(map(len, encoder._known)) < 100 + len(text)
    assert 1 < asked.count(" some") < 25


def test_threads_share_what_they_learn_and_forget(
    cores: dict[str, Tokenizer], kernels: Native | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(words, "_KEPT_CHARACTERS", 200)
    monkeypatch.setattr(words, "MOST_WORDS", 40)
    core = cores["split 0"]
    encoder = Encoder(core, np.dtype("<i4"), kernels)
    batches = [
        [f"{name}{number % 7} of {number}\n\nwords 낱말{number % 5}!" for name in "abc"] for number in range(400)
    ]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda texts: _found(encoder, texts), batches))
    assert found == [_whole(core, texts) for texts in batches]


def test_words_that_meet_in_one_place_are_asked_for_again(built: Native) -> None:
    """A text made to be slow costs what the library costs: after 64 steps a word is neither looked for nor kept."""
    cut = _Cutting(built, by_gpt2=True)
    same_place = [word for number in range(250_000) if _hash(word := f" {number}.") % 2048 == 77]
    assert len(same_place) > 80
    for asked in (same_place, same_place[64:]):
        cut.asked.clear()
        assert cut(["".join(same_place)], [True]) == [same_place]
        assert cut.asked == asked


def _hash(word: str) -> int:
    """Of native/words.cpp: FNV-1a, its upper bits folded in."""
    found = 0xCBF29CE484222325
    for byte in word.encode():
        found = (found ^ byte) * 0x100000001B3 % 2**64
    return found ^ found >> 29


def test_half_a_surrogate_pair_is_refused(cores: dict[str, Tokenizer], kernels: Native | None) -> None:
    with pytest.raises((UnicodeEncodeError, TypeError)):
        Encoder(cores["gpt2"], np.dtype("<u2"), kernels).encode(["fine", "half \ud83d"])


@pytest.mark.parametrize("name", _steps())
def test_known_patterns_are_cut(cores: dict[str, Tokenizer], name: str) -> None:
    assert len(parts_of(cores[name])("one two\nthree")) == 3


def test_what_hanbit_trains_is_cut() -> None:
    assert len(parts_of(train.untrained())("one two\nthree")) == 3


def test_a_text_with_a_tag_that_the_tokenizer_adds_stays_whole(kernels: Native | None) -> None:
    core = _trained(pre_tokenizers.ByteLevel(add_prefix_space=False))
    core.add_tokens(["<tool_call>", AddedToken("<tag>", lstrip=True)])
    texts = ["one two <tool_call> three", "one two  <tag> three", "one two three <tool"]
    assert [len(parts_of(core)(text)) for text in texts] == [1, 1, 4]
    assert _found(Encoder(core, np.dtype("<u2"), kernels), texts) == _whole(core, texts)


@pytest.mark.parametrize("content", ["caf\u00e9 ol\u00e9", "cafe\u0301 ole\u0301"])
@pytest.mark.parametrize("is_normalized", [True, False])
def test_a_tag_is_found_in_whatever_form_it_is_written(
    content: str, is_normalized: bool, kernels: Native | None
) -> None:
    core = _trained(pre_tokenizers.ByteLevel(add_prefix_space=False), normalizers.NFC())
    core.add_tokens([AddedToken(content, normalized=is_normalized)])
    texts = ["a caf\u00e9 ol\u00e9 b", "a cafe\u0301 ole\u0301 b", "a b"]
    assert _found(Encoder(core, np.dtype("<u2"), kernels), texts) == _whole(core, texts)


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


def test_others_are_left_whole(kernels: Native | None) -> None:
    for name, core in _unsafe().items():
        assert parts_of(core)("a\nb" * 5000) == ["a\nb" * 5000], name
        assert Encoder(core, np.dtype("<u2"), kernels)._native is None

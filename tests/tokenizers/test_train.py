"""The tokenizer we train: Hangul stays whole before the merges, nothing is lost, transformers reads the folder."""

import json
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hanbit.common.errors import ConfigError
from hanbit.tokenizers import train
from hanbit.tokenizers.tokenizer import Tokenizer

HANGUL = "[\u1100-\u11ff\u3130-\u318f\ua960-\ua97f\uac00-\ud7ff]"  # jamo, compatibility jamo, syllables
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
HANGUL_MIX = st.text(
    st.one_of(
        st.characters(min_codepoint=0xAC00, max_codepoint=0xD7A3),
        st.characters(min_codepoint=0x3131, max_codepoint=0x318E),
        st.characters(min_codepoint=0x1100, max_codepoint=0x11FF),
        st.sampled_from("aZ09 ,.'\n\t(😀"),
    ),
    max_size=40,
)


def words_of(text: str) -> list[str]:
    """What the normaliser and pre-tokeniser make of a text, as characters."""
    core = train.untrained()
    normal = core.normalizer.normalize_str(text)
    return [normal[start:end] for _, (start, end) in core.pre_tokenizer.pre_tokenize_str(normal)]


@settings(max_examples=300, deadline=None)
@given(text=HANGUL_MIX)
@example("\u1112\u1161\u11ab\u1100\u1173\u11af")  # 한글 typed as NFD
@example("ㅋㅋ학교ㅠㅠ")
def test_a_run_of_hangul_is_never_cut(text: str) -> None:
    words = words_of(text)
    normal = unicodedata.normalize("NFC", text)
    assert "".join(words) == normal
    runs_of_text = re.findall(f"{HANGUL}+", normal)
    runs_of_words = [run for word in words for run in re.findall(f"{HANGUL}+", word)]
    assert runs_of_words == runs_of_text


def test_words_digits_and_punctuation_part_where_they_should() -> None:
    assert words_of("Python을 배워요, 2024년!") == ["Python을", " 배워요", ",", " ", "202", "4", "년", "!"]
    assert words_of("it's\n\n  ok") == ["it", "'s", "\n\n", " ", " ok"]


@settings(max_examples=300, deadline=None)
@given(text=st.one_of(ANY_TEXT, HANGUL_MIX))
def test_decoding_what_was_encoded_gives_the_text_in_nfc(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == unicodedata.normalize("NFC", text)
    assert all(0 <= id < tokenizer.vocabulary_size for id in ids)


def test_nfd_and_nfc_give_the_same_ids(tokenizer: Tokenizer) -> None:
    text = "대한민국 헌법"
    assert tokenizer.encode(unicodedata.normalize("NFD", text)) == tokenizer.encode(text)


def test_every_hangul_syllable_survives(tokenizer: Tokenizer) -> None:
    every = "".join(chr(code) for code in range(0xAC00, 0xD7A4))
    assert tokenizer.decode(tokenizer.encode(every)) == every


def test_merges_are_learnt(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocabulary_size == 400
    assert len(tokenizer.encode("대한민국")) < len("대한민국".encode()) / 2


def test_training_again_in_another_process_gives_the_same_file(folder: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[2]); from conftest import TEXTS\n"
        "from hanbit.tokenizers import train; train.save(train.train(TEXTS, 400), Path(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path), str(Path(__file__).parent)], check=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_transformers_reads_the_folder_and_agrees(folder: Path, tokenizer: Tokenizer) -> None:
    from transformers import AutoTokenizer

    other = AutoTokenizer.from_pretrained(folder)
    for text in ["안녕하세요 world 123", "<|endoftext|>끝", "  spaces \n\n end "]:
        assert other(text)["input_ids"] == tokenizer.encode(text)
        assert other.decode(tokenizer.encode(text)) == tokenizer.decode(tokenizer.encode(text))
    assert (other.eos_token_id, other.bos_token_id, other.pad_token_id) == (0, 0, 0)
    assert (tokenizer.end_id, tokenizer.begin_id, tokenizer.pad_id) == (0, 0, 0)
    assert len(other) == tokenizer.vocabulary_size
    assert json.loads((folder / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_too_small_a_vocabulary_is_refused_with_the_smallest() -> None:
    with pytest.raises(ConfigError, match=r"vocabulary=100 .* 259"):
        train.train(["abc"], 100)


def test_too_large_a_vocabulary_is_refused_before_the_library_aborts() -> None:
    with pytest.raises(ConfigError, match=r"vocabulary=1099511627776 .* at most 1048576"):
        train.train(["abc"], 2**40)

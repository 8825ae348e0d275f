"""A larger vocabulary: old text keeps its tokens and logits, new text needs fewer, new rows are means of old ones."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from hanbit import convert
from hanbit.common.errors import ConfigError, DataError, FormatError
from hanbit.tokenizers.extend import extend
from hanbit.tokenizers.load import load
from tests.convert.gguf_models import write_gguf
from tests.engine.folders import theirs_of, write_folder

ENGLISH = "The quick brown fox jumps over the lazy dog: naïve “quotes” → 日本語, 3.14! \n\tfoo_bar()"
OLD, NEW = 339, 100
KOREAN = "대한민국의 주권은 국민에게 있고, 모든 권력은 국민으로부터 나온다. A형 국민은 법률이 정하는 바에 의한다."


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "ko.txt"
    path.write_text(f"{KOREAN}\n모든 국민은 법 앞에 평등하다. 국민의 자유와 권리는 존중된다.\n" * 5, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its tokenizer has 339 tokens, its matrices 403 rows; the projection is a matrix of its own."""
    path = tmp_path_factory.mktemp("model") / "base"
    path.mkdir()
    write_folder(path, "llama")
    return path


@pytest.fixture(scope="module")
def made(base: Path, corpus: Path) -> Path:
    return convert(base, base.parent / "made", extend_vocabulary=str(corpus), new_tokens=NEW).folder


def test_old_text_keeps_its_tokens_and_new_text_needs_half_as_many(base: Path, made: Path) -> None:
    old, new = (AutoTokenizer.from_pretrained(folder) for folder in (base, made))
    assert new(ENGLISH)["input_ids"] == old(ENGLISH)["input_ids"]
    assert all(new.convert_tokens_to_ids(name) == id for name, id in old.get_vocab().items())
    before, after = (one(KOREAN)["input_ids"] for one in (old, new))
    assert len(after) < 0.6 * len(before)
    assert new.decode(after) == KOREAN


def test_cutting_the_new_tokens_up_gives_the_old_ones(base: Path, corpus: Path) -> None:
    tokenizer = load(base)
    found = extend(tokenizer, [corpus.read_text(encoding="utf-8")], NEW)
    assert NEW // 2 < len(found.pieces) <= NEW
    assert list(found.pieces) == list(range(OLD, OLD + len(found.pieces)))
    for text in (KOREAN, ENGLISH, "국민 국민은 국민에게 나온 나온다", "한글 힣 뷁"):
        ids = [old for id in found.core.encode(text).ids for old in found.pieces.get(id, (id,))]
        assert ids == tokenizer.core.encode(text).ids
    for id, pieces in found.pieces.items():
        assert found.core.id_to_token(id) == "".join(str(tokenizer.token_of(piece)) for piece in pieces)


def test_new_rows_are_the_means_of_their_old_pieces_and_old_logits_stay(base: Path, corpus: Path, made: Path) -> None:
    pieces = extend(load(base), [corpus.read_text(encoding="utf-8")], NEW).pieces
    before, after = theirs_of(base), theirs_of(made)
    assert json.loads((made / "config.json").read_text())["vocab_size"] == OLD + len(pieces)
    matrices = [(one.lm_head.weight.data, one.model.embed_tokens.weight.data) for one in (before, after)]
    for old, new in zip(*matrices, strict=True):
        assert torch.equal(new[:OLD], old[:OLD])
        for id, parts in pieces.items():
            total = torch.zeros(old.shape[1])
            for part in parts:
                total += old[part]
            torch.testing.assert_close(new[id], total / len(parts))
    tokens = torch.tensor([AutoTokenizer.from_pretrained(base)(ENGLISH)["input_ids"]])
    with torch.no_grad():
        torch.testing.assert_close(after(tokens).logits[..., :OLD], before(tokens).logits[..., :OLD])


def test_padding_that_is_left_stays(base: Path, corpus: Path, tmp_path: Path) -> None:
    few = convert(base, tmp_path / "few", extend_vocabulary=str(corpus), new_tokens=8).folder
    again = convert(base, tmp_path / "few", extend_vocabulary=str(corpus), new_tokens=8)
    assert again.was_there
    assert again.proof is not None
    before, after = (theirs_of(folder).get_input_embeddings().weight.data for folder in (base, few))
    assert len(after) == len(before) == 403, "of 64 rows of padding 8 are taken"
    assert torch.equal(after[OLD + 8 :], before[OLD + 8 :])
    assert not torch.equal(after[OLD : OLD + 8], before[OLD : OLD + 8])


@pytest.mark.parametrize(
    ("text", "count", "error", "words"),
    [
        (None, 60, ConfigError, "needs --extend-vocabulary"),
        ("", None, ConfigError, "--extend-vocabulary is empty"),
        (" ", 60, ConfigError, "--extend-vocabulary is empty"),
        ("{corpus}", 1, ConfigError, "too few"),
        ("{corpus}", 2**40, ConfigError, "at most 1048576"),
        ("nowhere.txt", None, DataError, "nowhere.txt"),
        ("{english}", None, DataError, "no letters beyond ASCII"),
    ],
)
def test_what_cannot_grow_is_refused(
    base: Path, corpus: Path, tmp_path: Path, text: str | None, count: int | None, error: type[Exception], words: str
) -> None:
    english = tmp_path / "en.txt"
    english.write_text("Only words of English, and words of English. " * 5)
    named = None if text is None else text.format(corpus=corpus, english=english)
    with pytest.raises(error, match=words):
        convert(base, tmp_path / "out", extend_vocabulary=named, new_tokens=count)
    assert not (tmp_path / "out").exists()


def test_a_file_of_another_format_is_converted_first(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="Convert it first"):
        convert(write_gguf(tmp_path / "small.gguf"), tmp_path / "out", extend_vocabulary=str(corpus))

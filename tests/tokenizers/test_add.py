"""Tokens put behind those of a tokenizer whose ids are places in a list; the other kind is in tests/train."""

import logging
from pathlib import Path

import pytest
import tokenizers

from hanbit.tokenizers.add import add_tokens


@pytest.mark.parametrize("first", [3, 5])
def test_a_list_of_pieces_takes_tokens_right_behind_it_and_is_left_alone_with_a_gap(
    first: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    pieces = [("<unk>", 0.0), ("a", -1.0), ("b", -2.0)]
    path = tmp_path / "tokenizer.json"
    tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, unk_id=0)).save(str(path))
    before = path.read_text()
    add_tokens(tmp_path, {"<extra_id_0>": first + 1, "<extra_id_1>": first})
    if first == 3:
        read = tokenizers.Tokenizer.from_file(str(path))
        assert read.encode("a<extra_id_0>b<extra_id_1>").ids == [1, 4, 2, 3]
    else:
        assert path.read_text() == before
        assert "has gaps where <extra_id_0> would stand" in caplog.text

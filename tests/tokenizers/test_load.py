"""Reading tokenizers: the roles, the template, and what is refused."""

import json
import shutil
from pathlib import Path

import pytest

from hanbit.common.errors import DataError
from hanbit.tokenizers.load import load
from hanbit.tokenizers.tokenizer import Tokenizer


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_bare_file_guesses_the_usual_end(folder: Path) -> None:
    bare = load(folder / "tokenizer.json")
    assert (bare.end_id, bare.begin_id, bare.chat_template) == (0, None, None)


def test_roles_may_be_objects_and_a_role_map_alone_is_enough(copy: Path) -> None:
    (copy / "tokenizer_config.json").write_text("{}")
    (copy / "special_tokens_map.json").write_text(json.dumps({"eos_token": {"content": "<|im_end|>"}}))
    assert load(copy).end_id == 2


def test_the_template_file_wins_and_named_ones_give_default(copy: Path) -> None:
    change(copy / "tokenizer_config.json", chat_template=[{"name": "default", "template": "d"}, {"name": "t"}])
    assert load(copy).chat_template == "d"
    (copy / "chat_template.jinja").write_text("file")
    assert load(copy).chat_template == "file"


def test_stored_padding_and_truncation_do_not_touch_documents(copy: Path) -> None:
    change(
        copy / "tokenizer.json",
        truncation={"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
    )
    assert load(copy).decode(load(copy).encode("a long text")) == "a long text"


def test_special_ids_are_the_marked_tokens(tokenizer: Tokenizer) -> None:
    assert tokenizer.special_ids == {0, 1, 2}


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"tokenizer\.json is missing"):
        load(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model": 3}'])
def test_a_damaged_tokenizer_is_refused(copy: Path, content: str) -> None:
    (copy / "tokenizer.json").write_text(content)
    with pytest.raises(DataError, match=r"tokenizer\.json is not a readable tokenizer"):
        load(copy)


@pytest.mark.parametrize("content", ["{", "[1]", "[" * 100_000])
def test_a_damaged_configuration_is_refused(copy: Path, content: str) -> None:
    (copy / "tokenizer_config.json").write_text(content)
    with pytest.raises(DataError, match=r"tokenizer_config\.json"):
        load(copy)


def test_an_end_token_that_is_not_in_the_vocabulary_is_refused(copy: Path) -> None:
    change(copy / "tokenizer_config.json", eos_token="</nowhere>")
    with pytest.raises(DataError, match="'</nowhere>'"):
        load(copy)


def test_a_missing_end_is_refused_with_the_way_out(copy: Path) -> None:
    (copy / "tokenizer_config.json").write_text("{}")
    (copy / "special_tokens_map.json").write_text("{}")
    with pytest.raises(DataError, match="eos_token"):
        load(copy).require_end_id()

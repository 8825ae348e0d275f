"""Every kind of source is read whole, and what is wrong with one is named with file and line."""

import gzip
import json
import sys
import unicodedata
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from hanbit.common.errors import DataError
from hanbit.data.files import txt
from hanbit.data.sources import corpus_names, find_sources

TEXTS = ["첫 문서\n둘째 줄", "second", "", "세 번째 😀"]


def texts_of(*names: object, key: str = "text") -> list[str]:
    return [text for source in find_sources([str(name) for name in names], key) for text, _ in source.documents()]


def jsonl(key: str = "text") -> bytes:
    return b"".join(json.dumps({"id": 1, key: text}).encode() + b"\n" for text in TEXTS)


def test_jsonl_plain_and_gzip_give_every_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl() + b"\n")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(jsonl(), mtime=0))
    assert texts_of(tmp_path / "a.jsonl") == TEXTS
    assert texts_of(tmp_path) == TEXTS * 2


def test_another_text_key_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl("content"))
    assert texts_of(tmp_path / "a.jsonl", key="content") == TEXTS


def test_parquet_gives_every_row(tmp_path: Path) -> None:
    texts = [f"문서 {i}" for i in range(1000)]
    table = pyarrow.table({"n": range(1000), "text": pyarrow.array(texts, pyarrow.large_string())})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=300)
    assert texts_of(tmp_path / "a.parquet") == texts
    ends = [end for _, end in find_sources([str(tmp_path / "a.parquet")])[0].documents()]
    assert ends == sorted(ends)
    assert ends[-1] == (tmp_path / "a.parquet").stat().st_size


@pytest.mark.parametrize(
    "kind",
    [
        pyarrow.string(),
        pyarrow.large_string(),
        pyarrow.string_view(),
        pyarrow.dictionary(pyarrow.int8(), pyarrow.string()),
    ],
    ids=str,
)
def test_parquet_text_of_every_string_kind_is_read_and_a_null_is_no_text(
    tmp_path: Path, kind: pyarrow.DataType
) -> None:
    column = pyarrow.array(["가", None, "", "b", "가"], pyarrow.string())
    column = column.dictionary_encode().cast(kind) if pyarrow.types.is_dictionary(kind) else column.cast(kind)
    parquet.write_table(pyarrow.table({"text": column}), tmp_path / "a.parquet")
    assert parquet.ParquetFile(tmp_path / "a.parquet").schema_arrow.field("text").type == column.type
    assert texts_of(tmp_path / "a.parquet") == ["가", "", "", "b", "가"]


def test_a_text_file_is_one_document_without_its_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeff가\n\n나\r\n".encode())
    assert texts_of(tmp_path / "a.txt") == ["가\n\n나\r\n"]


def test_a_long_text_file_is_cut_at_blank_lines_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(txt, "CUT_CHARACTERS", 20)
    text = "".join(f"line {i}\n" + ("\n" if i % 4 == 0 else "") for i in range(30)) + "x" * 100
    (tmp_path / "a.txt").write_text(text)
    pieces = texts_of(tmp_path / "a.txt")
    assert "".join(pieces) == text
    assert len(pieces) > 5
    assert all(piece.endswith("\n\n") for piece in pieces[:-1])


def test_a_folder_is_read_in_order_of_names_and_kinds_it_does_not_know_are_left(tmp_path: Path) -> None:
    (tmp_path / "z").mkdir()
    (tmp_path / "z" / "a.txt").write_text("2")
    (tmp_path / "b.txt").write_text("1")
    (tmp_path / "c.bin").write_text("x")
    assert texts_of(tmp_path) == ["1", "2"]


def test_python_docs_are_on_every_machine() -> None:
    from pydoc_data.topics import topics

    assert sorted(texts_of("python-docs")) == sorted(topics.values())


def test_korean_law_is_read_without_importing_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "konlpy" / "data" / "corpus"
    for name, text in [("kolaw/constitution.txt", "대한민국헌법"), ("kobill/1.txt", "의안")]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    (tmp_path / "konlpy" / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert texts_of("korean-law") == ["대한민국헌법", "의안"]
    assert "konlpy" not in sys.modules


def test_a_missing_wheel_comes_with_its_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match="pip install --no-deps konlpy"):
        find_sources(["korean-law"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"ok\nab\xffc\n", r"a\.txt:2: byte 0xff at column 3 is not UTF-8"),
        ("a.txt", "한글".encode("cp949"), r"a\.txt:1: byte 0xc7.*iconv -f CP949 "),
        ("a.txt", "한글\n".encode("utf-16"), r"a\.txt:1: byte 0xff.*iconv -f UTF-16 "),
        ("a.txt", "\ufeff한글\n".encode("utf-16-be"), r"a\.txt:1: byte 0xfe.*iconv -f UTF-16 "),
        ("a.txt", "한글 a\n".encode("utf-16-le"), r"a\.txt:1: byte 0xd5.*iconv -f UTF-16LE "),
        ("a.jsonl", b'{"text": "a"}\n\xff\n', r"a\.jsonl:2: byte 0xff"),
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', r"a\.jsonl:2: not JSON"),
        ("a.jsonl", b"[1]\n", r"a\.jsonl:1: a JSON list"),
        ("a.jsonl", b"[" * 100_000, r"a\.jsonl:1: not JSON"),
        ("a.jsonl", b'\n{"content": "a"}\n', r"a\.jsonl:2: no key 'text'.*--text-key content"),
        ("a.jsonl", b'{"text": 1}\n', r"a\.jsonl:1: key 'text' holds a int"),
        ("a.jsonl", b'{"text": "a\\ud800"}\n', r"a\.jsonl:1: half a surrogate pair \(\\ud800\) at character 2"),
        ("a.jsonl.gz", gzip.compress(jsonl(), mtime=0)[:-10], r"a\.jsonl\.gz:\d: gzip data is damaged"),
        ("a.jsonl.gz", b"not gzip", r"a\.jsonl\.gz:1: gzip data is damaged"),
        ("a.parquet", b"PAR1 no", r"a\.parquet is not readable as Parquet"),
    ],
)
def test_damage_is_named_with_its_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        texts_of(tmp_path / name)


def test_too_long_a_line_is_refused_instead_of_filling_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hanbit.data.lines.LONGEST_LINE_BYTES", 10)
    (tmp_path / "a.jsonl").write_text("        \n" + "1234567890\n")
    with pytest.raises(DataError, match=r"a\.jsonl:2: the line is longer than 10 bytes"):
        texts_of(tmp_path / "a.jsonl")


@pytest.mark.parametrize("longest", [10, 11, 12, 13])
def test_a_long_line_of_plain_text_is_cut_between_characters_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, longest: int
) -> None:
    monkeypatch.setattr("hanbit.data.lines.LONGEST_LINE_BYTES", longest)
    monkeypatch.setattr(txt, "CUT_CHARACTERS", 3)
    text = "\ufeff가나다\n" + "a가é😀" * 20 + "\n끝\n" + "b" * 31 + "".join(f"\n{'x' * n}" for n in range(9, 15))
    (tmp_path / "a.txt").write_text(text)
    pieces = texts_of(tmp_path / "a.txt")
    assert "".join(pieces) == text.removeprefix("\ufeff")
    assert max(len(piece.encode()) for piece in pieces) <= 2 * longest + len("가나다".encode())
    (tmp_path / "a.txt").write_bytes(text.encode() + b"\nok\n" + b"c" * 30 + b"\xff")
    with pytest.raises(DataError, match=r"a\.txt:12: byte 0xff"):
        texts_of(tmp_path / "a.txt")


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ({"content": ["a"]}, r"no column 'text'.*\['content'\]"),
        ({"text": [1]}, "column 'text' holds int64"),
    ],
)
def test_a_parquet_column_that_does_not_fit_is_named(tmp_path: Path, column: dict, message: str) -> None:
    parquet.write_table(pyarrow.table(column), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=message):
        texts_of(tmp_path / "a.parquet")


@pytest.mark.parametrize(("on_disk", "typed"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_a_name_is_found_in_the_other_spelling_of_unicode(tmp_path: Path, on_disk: str, typed: str) -> None:
    folder = tmp_path / unicodedata.normalize(typed, "말뭉치")  # of the two, only the file is spelled otherwise
    folder.mkdir()
    (folder / unicodedata.normalize(on_disk, "한글.txt")).write_text("가")
    assert texts_of(folder / unicodedata.normalize(typed, "한글.txt")) == ["가"]
    assert texts_of(
        tmp_path / unicodedata.normalize(on_disk, "말뭉치") / unicodedata.normalize(on_disk, "한글.txt")
    ) == ["가"]
    with pytest.raises(DataError, match=r"없음\.txt is neither a file"):
        texts_of(folder / "없음.txt")


def test_unknown_names_and_suffixes_list_what_exists(tmp_path: Path) -> None:
    assert corpus_names() == ["korean-law", "python-docs"]
    with pytest.raises(DataError, match="Did you mean the built-in corpus 'python-docs'"):
        find_sources(["python-doc"])
    (tmp_path / "a.pdf").write_text("")
    with pytest.raises(DataError, match=r"'\.pdf'; readable are \.jsonl, \.jsonl\.gz, \.parquet, \.txt"):
        find_sources([str(tmp_path / "a.pdf")])
    with pytest.raises(DataError, match="holds no file that ends in"):
        find_sources([str(tmp_path)])
    with pytest.raises(DataError, match="no source is named"):
        find_sources([])


def test_a_source_named_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("1")
    with pytest.raises(DataError, match="named twice"):
        find_sources([str(tmp_path), str(tmp_path / "a.txt")])


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl())
    documents = find_sources([str(tmp_path / "a.jsonl")])[0].documents()
    next(documents)
    with open(tmp_path / "a.jsonl", "ab") as file:
        file.write(jsonl())
    with pytest.raises(DataError, match="was changed while it was read"):
        list(documents)

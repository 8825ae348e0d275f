"""Files and values as YAML 1.2 has them; whatever is not plain data is refused with its line."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from hanbit.common.errors import ConfigError
from hanbit.config.yaml_file import read_document, read_value


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "recipe.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-3", -3),
        ("017", 17),
        ("0o17", 15),
        ("0x1F", 31),
        ("3e-4", 3e-4),
        (".5", 0.5),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("yes", "yes"),
        ("1:30", "1:30"),
        ("2026-01-01", "2026-01-01"),
        ("a # b", "a # b"),
        ("a: b", "a: b"),
        ("'3'", "3"),
        ('"tab\\t"', "tab\t"),
        ("[0.9, 0.95]", [0.9, 0.95]),
        ("{kind: linear, factor: 2}", {"kind": "linear", "factor": 2}),
        ("가나다", "가나다"),
    ],
)
def test_a_value_is_read_as_yaml_1_2_has_it(text: str, value: object) -> None:
    found = read_value(text, "here")
    assert found == value
    assert type(found) is type(value)


@given(st.one_of(st.integers(), st.floats(allow_nan=False), st.booleans()))
def test_a_written_number_is_read_as_ruamels_own_loader_reads_it(value: float) -> None:
    text = str(value).lower().replace("inf", ".inf")
    assert read_value(text, "here") == YAML(typ="safe", pure=True).load(text) == value


def test_every_key_has_its_line(tmp_path: Path) -> None:
    path = written(tmp_path, "# first\nmodel:\n  layers: 2\n\n  hidden: 8\nbatch: {global_batch: 4}\n")
    document = read_document(path, "r.yaml")
    assert document.data == {"model": {"layers": 2, "hidden": 8}, "batch": {"global_batch": 4}}
    assert document.places == {
        "model": "r.yaml:2",
        "model.layers": "r.yaml:3",
        "model.hidden": "r.yaml:5",
        "batch": "r.yaml:6",
        "batch.global_batch": "r.yaml:6",
    }


@pytest.mark.parametrize("start", ["", "\ufeff"], ids=["plain", "byte order mark"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["unix", "windows"])
def test_files_of_every_editor_are_read(tmp_path: Path, start: str, end: str) -> None:
    path = written(tmp_path, f"{start}name: 가{end}runs: b{end}")
    assert read_document(path).data == {"name": "가", "runs": "b"}


@pytest.mark.parametrize("text", ["", "# nothing but a comment\n", "---\n"])
def test_an_empty_file_says_nothing(tmp_path: Path, text: str) -> None:
    assert read_document(written(tmp_path, text)).data == {}


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{below}'] * 10)}]\n" for below, name in zip("abcdef", "bcdefg", strict=True)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: a\nname: b\n", r"r\.yaml:2: name stands twice, first at r\.yaml:1"),
        ("model:\n  layers: 2\n  layers: 2\n", r"r\.yaml:3: model\.layers stands twice"),
        ("name: !!python/object/apply:os.system [echo]\n", r"r\.yaml:1: tag .*os\.system is not allowed"),
        ("model: !!python/object:builtins.dict {a: 1}\n", r"r\.yaml:1: tag .* is not allowed"),
        ("name: !mine x\n", r"r\.yaml:1: tag !mine is not allowed"),
        ("name: !!binary aGk=\n", r"r\.yaml:1: tag .*binary is not allowed"),
        ("%YAML 1.1\n---\nname: yes\n", r"r\.yaml:3: 'yes' is no bool of YAML 1\.2"),
        ("%YAML 1.1\n---\nname: 1:30\n", r"r\.yaml:3: '1:30' is no int of YAML 1\.2"),
        ("name: !!int abc\n", r"r\.yaml:1: 'abc' is no int"),
        ("steps: " + "9" * 5000, r"r\.yaml:1: '999.*' is no int"),
        ("[1, 2]: x\n", r"r\.yaml:1: a key must be a word, found a list"),
        ("- a\n- b\n", r"r\.yaml:1: a recipe is a mapping of sections, found a list"),
        ("just words\n", r"r\.yaml:1: a recipe is a mapping of sections, found a single value"),
        ("model:\n  layers: 2\n hidden: 3\n", r"r\.yaml:3: not YAML"),
        ("a: [1\n", r"r\.yaml:2: not YAML"),
        ("a: 1\n---\nb: 2\n", r"r\.yaml:2: not YAML"),
        ("a: *nobody\n", r"r\.yaml:1: not YAML: .*nobody"),
        ("a: \x00\n", r"r\.yaml: not YAML"),
        ('name: "\\ud800"\n', r"r\.yaml:1: .* is no valid Unicode text"),
        (b"name: \xff\xfe\n", r"r\.yaml cannot be read: .*utf-8"),
        ("a: &a [*a]\n", r"r\.yaml:1: too many or too deeply nested"),
        (LAUGHS, r"r\.yaml:\d: too many or too deeply nested"),
        ("a: " + "[" * 60 + "]" * 60, r"r\.yaml:1: too many or too deeply nested"),
        ("a: " + "[" * 20_000, r"r\.yaml: not YAML"),
        ("#" * 200_001, r"r\.yaml is larger than 200000 bytes"),
    ],
)
def test_what_is_not_plain_data_is_refused_with_its_line(tmp_path: Path, text: str | bytes, words: str) -> None:
    with pytest.raises(ConfigError, match=f"^{words}"):
        read_document(written(tmp_path, text), "r.yaml")


def test_a_folder_or_a_missing_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.yaml"):
        with pytest.raises(ConfigError, match="cannot be read"):
            read_document(path)

"""What polling makes of looks at a repository: changes count once they look the same twice."""

from pathlib import Path

import pytest

from hanbit.server.polling import Changes, Watch, look_at


def watch(**look: object) -> Watch:
    found = Watch()
    found.begin(look)
    return found


def test_nothing_happens_while_nothing_changes() -> None:
    found = watch(a=1, b=1)
    assert found.next({"a": 1, "b": 1}) == Changes()


def test_a_change_counts_once_it_has_settled() -> None:
    found = watch(a=1)
    assert found.next({"a": 2}) == Changes()  # still being written?
    assert found.next({"a": 3}) == Changes()
    assert found.next({"a": 3}) == Changes(load=("a",))
    assert found.next({"a": 3}) == Changes()


def test_new_models_are_loaded_and_those_that_are_gone_unloaded() -> None:
    found = watch(a=1)
    assert found.next({"b": 1}) == Changes(unload=("a",))
    assert found.next({"b": 1}) == Changes(load=("b",))
    assert found.next({"a": 1, "b": 1}) == Changes()
    assert found.next({"a": 1, "b": 1}) == Changes(load=("a",))


def test_a_change_that_is_taken_back_is_none() -> None:
    found = watch(a=1)
    assert found.next({"a": 2}) == Changes()
    assert found.next({"a": 1}) == Changes()
    assert found.next({"a": 1}) == Changes()


def test_every_file_of_a_model_counts(tmp_path: Path) -> None:
    (tmp_path / "a" / "1").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    first = look_at([tmp_path])
    assert set(first) == {"a", "b"}
    (tmp_path / "a" / "1" / "model.onnx").write_bytes(b"x")
    second = look_at([tmp_path])
    assert second["a"] != first["a"]
    assert second["b"] == first["b"]
    (tmp_path / "a" / "2").mkdir()
    assert look_at([tmp_path])["a"] != second["a"]


def test_a_repository_that_is_away_is_not_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        look_at([tmp_path / "gone"])

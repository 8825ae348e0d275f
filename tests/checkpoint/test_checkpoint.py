import json
import random
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hanbit.checkpoint.layout import folder_name
from hanbit.checkpoint.load import Reader, load_tensors, newest_checkpoint, read_state
from hanbit.checkpoint.save import _commit, _write_pieces, save_checkpoint
from hanbit.common.errors import CheckpointError
from hanbit.parallel.pieces import Piece, whole


def boxes_of(shape: tuple[int, int], row_cuts: list[int], column_cuts: list[int]) -> list[Piece]:
    """The shape cut along both dims at the given places."""
    rows = sorted({0, *(cut % shape[0] for cut in row_cuts), shape[0]})
    columns = sorted({0, *(cut % shape[1] for cut in column_cuts), shape[1]})
    return [
        Piece("w", shape, (top, left), (bottom - top, right - left))
        for top, bottom in pairwise(rows)
        for left, right in pairwise(columns)
    ]


cuts = st.lists(st.integers(0, 50), max_size=3)


@settings(max_examples=40, deadline=None)
@given(st.tuples(st.integers(1, 9), st.integers(1, 9)), cuts, cuts, cuts, cuts)
def test_any_cut_loads_into_any_other_cut(tmp_path_factory, shape, rows, columns, new_rows, new_columns) -> None:
    folder = tmp_path_factory.mktemp("reshard")
    full = torch.randn(shape)
    parts = [
        _write_pieces(folder, {"w": (piece, full[piece.slices])}, rank)
        for rank, piece in enumerate(boxes_of(shape, rows, columns))
    ]
    _commit(folder, folder.parent / (folder.name + "-whole"), parts, {})
    for piece in boxes_of(shape, new_rows, new_columns):
        target = torch.full(piece.size, float("nan"))
        load_tensors(folder.parent / (folder.name + "-whole"), {"w": (piece, target)})
        assert torch.equal(target, full[piece.slices])


def saved(folder: Path, step: int, keep: int = 5) -> dict[str, torch.Tensor]:
    tensors = {f"parameter/{name}": torch.randn(6, 4) for name in "abc"}
    pieces = {name: (whole(name, (6, 4)), tensor) for name, tensor in tensors.items()}
    save_checkpoint(folder, step, pieces, {"step": step}, rank=0, keep=keep)
    return tensors


def test_newest_whole_checkpoint_is_found_and_old_ones_are_removed(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        tensors = saved(tmp_path, step, keep=2)
    newest = newest_checkpoint(tmp_path, 0, 1)
    assert newest is not None
    assert newest.name == "step-000030" == (tmp_path / "latest").read_text().strip()
    assert read_state(newest)["step"] == 30
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-000020", "step-000030"]
    assert torch.equal(Reader(newest).whole("parameter/b"), tensors["parameter/b"])


@pytest.mark.parametrize("name", ["rank-00000.safetensors", "index.json", "state.json", "hanbit.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damage_of_any_file_is_noticed_and_the_one_before_is_taken(tmp_path: Path, name: str, damage: str) -> None:
    saved(tmp_path, 1)
    saved(tmp_path, 2)
    path = tmp_path / folder_name(2) / name
    content = bytearray(path.read_bytes())
    if damage == "flip":
        place = random.Random(name).randrange(len(content))
        content[place] ^= 0x10
        path.write_bytes(content)
    elif damage == "truncate":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.unlink()
    newest = newest_checkpoint(tmp_path, 0, 1)
    assert newest is not None
    assert newest.name == folder_name(1)


def test_run_whose_every_checkpoint_is_damaged_is_not_started_afresh(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    (tmp_path / folder_name(1) / "index.json").write_text("{}")
    with pytest.raises(CheckpointError, match="every one is damaged"):
        newest_checkpoint(tmp_path, 0, 1)


def test_no_checkpoint_at_all_is_a_fresh_start(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "none", 0, 1) is None


def test_half_written_folder_is_never_looked_at_and_removed_by_the_next_save(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    unfinished = tmp_path / ".step-000002.tmp"
    unfinished.mkdir()
    (unfinished / "rank-00000.safetensors").write_bytes(b"half")
    newest = newest_checkpoint(tmp_path, 0, 1)
    assert newest is not None
    assert newest.name == folder_name(1)
    saved(tmp_path, 3)
    assert not unfinished.exists()


def test_full_disk_keeps_the_old_checkpoint_and_leaves_nothing_half_written(tmp_path: Path, monkeypatch) -> None:
    saved(tmp_path, 1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hanbit.checkpoint.save.save_file", full)
    with pytest.raises(CheckpointError, match=r"No space left.*Former checkpoints are kept"):
        saved(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step-000001"]


def test_tensor_of_another_shape_or_name_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    folder = tmp_path / folder_name(1)
    with pytest.raises(CheckpointError, match="another model's checkpoint"):
        load_tensors(folder, {"parameter/a": (whole("a", (6, 5)), torch.empty(6, 5))})
    with pytest.raises(CheckpointError, match="no tensor parameter/z"):
        load_tensors(folder, {"parameter/z": (whole("z", (6, 4)), torch.empty(6, 4))})


def test_every_file_on_disk_is_safetensors_or_json(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    for path in (tmp_path / folder_name(1)).iterdir():
        if path.suffix == ".json":
            json.loads(path.read_text())
        else:
            assert path.suffix == ".safetensors"

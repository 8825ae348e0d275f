"""Which rank is named, against tables as torchrun itself writes them."""

import json
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from hanbit.launch.failure import Failure, first_failure, note_failure


def table(folder: Path, codes: dict[int, int], noted: dict[int, int]) -> str:
    """torchrun's own text for ranks that ended with `codes`; `noted`: nanoseconds in the notes that ranks have left."""
    failures = {}
    for rank, code in codes.items():
        path = folder / f"{rank}.json"
        if rank in noted:
            note = {"message": f"of {rank}", "timestamp": 1, "nanoseconds": noted[rank], "exit_code": 1}
            path.write_text(json.dumps(note))
        failures[rank] = ProcessFailure(local_rank=rank, pid=100 + rank, exitcode=code, error_file=str(path))
    return str(ChildFailedError("hanbit", failures))


@pytest.mark.parametrize(
    ("codes", "noted", "cause"),
    [
        ({0: 1, 1: 1, 2: 1}, {0: 30, 1: 20, 2: 25}, 1),  # within one second: the earliest note
        ({0: 1, 1: 1, 2: -9}, {0: 30, 1: 20}, 2),  # a killed rank can note nothing
        ({0: -6, 1: 1}, {1: 20}, 1),  # aborted since a peer was lost
        ({0: 1, 1: -15}, {0: 5}, 0),  # ended by torchrun
        ({3: 1}, {}, 3),
        ({3: -11}, {}, 3),
    ],
)
def test_cause_is_told_from_its_consequences(
    tmp_path: Path, codes: dict[int, int], noted: dict[int, int], cause: int
) -> None:
    failure = first_failure(table(tmp_path, codes, noted))
    assert failure is not None
    assert (failure.rank, failure.code) == (cause, codes[cause])


def test_talk_without_a_table_names_nobody() -> None:
    assert first_failure("ImportError: no torch here") is None


def test_note_is_read_by_torchrun_and_by_us(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(path))
    note_failure("the disk is full", 1)
    theirs = ProcessFailure(local_rank=0, pid=1, exitcode=1, error_file=str(path))
    assert theirs.message == "the disk is full"
    failure = first_failure(str(ChildFailedError("hanbit", {0: theirs})))
    assert failure is not None
    assert failure.note is not None
    assert failure.note.nanoseconds // 10**9 == theirs.timestamp


def alike(folder: Path, codes: dict[int, int], monkeypatch: pytest.MonkeyPatch) -> Failure:
    """What is made of ranks that all noted the same words, in the order of `codes`."""
    failures = {}
    for rank, code in codes.items():
        path = folder / f"{rank}.json"
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(path))
        note_failure("no such key", 2)
        failures[rank] = ProcessFailure(local_rank=rank, pid=rank, exitcode=code, error_file=str(path))
    failure = first_failure(str(ChildFailedError("hanbit", failures)))
    assert failure is not None
    return failure


def test_of_ranks_with_the_same_words_the_lowest_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failure = alike(tmp_path, {2: 2, 0: 2, 1: 2}, monkeypatch)
    assert (failure.rank, failure.code) == (0, 2)


def test_rank_that_torchrun_ended_while_it_was_leaving_has_the_code_it_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failure = alike(tmp_path, {1: 2, 0: -15}, monkeypatch)
    assert (failure.rank, failure.code) == (0, 2)


def test_file_of_torchs_own_making_is_no_note_but_its_rank_is_named(tmp_path: Path) -> None:
    path = tmp_path / "error.json"
    path.write_text(json.dumps({"message": {"message": "so", "extraInfo": {"timestamp": "1"}}}))
    theirs = ProcessFailure(local_rank=1, pid=1, exitcode=1, error_file=str(path))
    failure = first_failure(str(ChildFailedError("hanbit", {1: theirs})))
    assert failure == Failure(1, 1, 1)

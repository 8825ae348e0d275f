"""A token folder in the making: files that grow in `OUTPUT/.partial`, and a state that says how much of them counts.

A part is committed in this order: bytes appended and flushed to the disk, then `state.json` replaced atomically. After
kill -9, or a full disk, the files are cut back to what the state says and the work goes on from its position, so the
result has the same bits as one that was never disturbed. The finished files are moved out one by one; the manifest,
written last, makes the folder whole.
"""

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from hanbit.common.atomic import fsync_path, write_json
from hanbit.common.errors import DataError
from hanbit.common.units import readable_bytes
from hanbit.data.encode import Encoded, Position
from hanbit.data.megatron import write_index

NAME = ".partial"
_STATE = "state.json"
_TOKENS, _LENGTHS, _INDEX, _TOKENIZER = "tokens.bin", "lengths.bin", "tokens.idx", "tokenizer"
PART_TOKENS = 4_000_000  # two or three seconds of work are lost at most


@dataclass(frozen=True)
class State:
    """What has been committed."""

    position: Position = field(default_factory=Position)
    tokens: int = 0
    documents: int = 0
    left_out: int = 0  # documents that are blank or null
    largest_token: int = -1
    complete: bool = False  # all text is in, and the index is written


class Partial:
    """The folder `output/.partial`. Resumed if its settings are these, refused if they are not."""

    def __init__(self, output: Path, settings: dict[str, Any]) -> None:
        self.output = output
        self.folder = output / NAME
        self.settings = settings
        self.state = self._start()
        self._pending: list[Encoded] = []
        self._pending_tokens = 0

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.settings["dtype"])

    @property
    def tokens(self) -> int:
        """Tokens added so far, committed or not."""
        return self.state.tokens + self._pending_tokens

    @property
    def tokenizer(self) -> Path:
        """Where the tokenizer is (moved out already if the work was cut off at its very end)."""
        inside = self.folder / _TOKENIZER
        return self.output / _TOKENIZER if self.state.complete and not inside.exists() else inside

    @contextlib.contextmanager
    def new_tokenizer(self) -> Iterator[Path]:
        """A folder that becomes `tokenizer` when the block ends without an exception."""
        temporary = self.folder / ".tokenizer.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        yield temporary
        for file in temporary.iterdir():
            fsync_path(file)
        os.replace(temporary, self.folder / _TOKENIZER)
        fsync_path(self.folder)

    def add(self, encoded: Encoded) -> None:
        self._pending.append(encoded)
        self._pending_tokens += len(encoded.tokens)
        if self._pending_tokens >= PART_TOKENS:
            self.commit()

    def commit(self) -> None:
        """Make everything added so far survive the process."""
        if not self._pending:
            return
        highest = (int(encoded.tokens.max()) for encoded in self._pending if len(encoded.tokens))
        self._append(_TOKENS, [encoded.tokens for encoded in self._pending])
        self._append(_LENGTHS, [encoded.lengths for encoded in self._pending])
        self._save(
            replace(
                self.state,
                position=self._pending[-1].after,
                tokens=self.state.tokens + self._pending_tokens,
                documents=self.state.documents + sum(len(encoded.lengths) for encoded in self._pending),
                left_out=self.state.left_out + sum(encoded.left_out for encoded in self._pending),
                largest_token=max([self.state.largest_token, *highest]),
            )
        )
        self._pending, self._pending_tokens = [], 0

    def complete(self) -> None:
        """Write the index; from here on only moves are left."""
        self.commit()
        lengths = np.memmap(self.folder / _LENGTHS, "<i4", "r", shape=(self.state.documents,))
        write_index(self.folder / _INDEX, self.dtype, lengths)
        self._save(replace(self.state, complete=True))

    def move_out(self) -> None:
        """Move what is finished into the output folder; what an earlier attempt moved stays."""
        for name in (_TOKENS, _INDEX, _TOKENIZER):
            if (self.folder / name).exists():
                os.replace(self.folder / name, self.output / name)
        fsync_path(self.output)

    def _start(self) -> State:
        state = self._read()
        if state is None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            state = State()
            self._save(state)
        if not state.complete:
            for name, size in ((_TOKENS, state.tokens * self.dtype.itemsize), (_LENGTHS, state.documents * 4)):
                self._cut_back(self.folder / name, size)
        return state

    def _read(self) -> State | None:
        path = self.folder / _STATE
        if not path.is_file():
            return None
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
            state = State(**saved["state"] | {"position": Position(**saved["state"]["position"])})
            settings = saved["settings"]
        except (ValueError, KeyError, TypeError) as problem:
            raise DataError(f"{path} is damaged ({problem}). Remove {self.folder} and prepare again") from None
        if settings != self.settings and state.tokens == 0:
            return None  # nothing is lost by starting again, say after a mistake in a source was put right
        refuse_other_settings(settings, self.settings, self.output)
        return state

    def _cut_back(self, path: Path, size: int) -> None:
        path.touch()
        if path.stat().st_size < size:
            raise DataError(
                f"{path} has {path.stat().st_size} bytes, {_STATE} beside it counts {size}: it was changed. "
                f"Remove {self.folder} and prepare again"
            )
        os.truncate(path, size)

    def _append(self, name: str, arrays: list[np.ndarray]) -> None:
        with open(self.folder / name, "ab") as file:
            for array in arrays:
                file.write(array.data)
            _flush(file)

    def _save(self, state: State) -> None:
        self.state = state
        write_json(self.folder / _STATE, {"settings": self.settings, "state": asdict(state)})


def remove_left_over(output: Path) -> None:
    """Once the manifest stands, nothing here is needed."""
    shutil.rmtree(output / NAME, ignore_errors=True)


def _flush(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def refuse_other_settings(there: dict[str, Any], asked: dict[str, Any], output: Path) -> None:
    """A folder is one corpus with one tokenizer: say what differs instead of mixing two."""
    different = sorted(key for key in there.keys() | asked.keys() if there.get(key) != asked.get(key))
    if different:
        changes = "; ".join(
            f"{key}: there {_short(there.get(key))}, asked {_short(asked.get(key))}" for key in different
        )
        raise DataError(f"{output} was prepared with other settings ({changes}). Choose another --output, or remove it")


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."


@contextlib.contextmanager
def disk_errors_named(output: Path) -> Iterator[None]:
    """A full disk, quota or file size limit becomes a DataError; what was committed stays for the next try."""
    try:
        yield
    except OSError as problem:
        if problem.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DataError(
                f"{problem.filename or output}: {problem.strerror}. Check the path and its rights"
            ) from None
        free = readable_bytes(shutil.disk_usage(output).free)
        raise DataError(
            f"{output}: the disk refuses more ({problem.strerror}; {free} free). What was finished is kept: make room, "
            "run the same command again, and it goes on from there"
        ) from None

"""A GGUF file used where a model folder is asked for: converted once, its quantised blocks kept, in Hanbit's home.

HANBIT_HOME/gguf/NAME-DIGEST/    a model folder; NAME of the file, DIGEST of its content
"""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from hanbit.checkpoint.model_folder import KIND
from hanbit.common.errors import ModelError
from hanbit.common.home import home
from hanbit.common.manifest import read_manifest, sha256_of, verify
from hanbit.convert.convert import convert
from hanbit.convert.origin import Report
from hanbit.convert.sources import PACKAGE, find
from hanbit.formats.gguf.blocks import is_quantised
from hanbit.formats.gguf.file import GGUFFile

_DIGITS = 16  # of the digest, in a folder's name


def is_file_source(model: str | Path) -> bool:
    """Does it name a GGUF file, and not what the engine reads itself?"""
    return str(model).startswith(PACKAGE) or (str(model).endswith(".gguf") and not Path(model).is_dir())


def kept_folder(model: str | Path, progress: Report | None = None) -> Path:
    """The model folder of a `.gguf` file or of `package:NAME`; made if it is not there (5 bytes a parameter of disk).
    A package's folder is itself what is read.

    Another process that makes the same is waited for. What the files hold is checked when they are loaded, as any
    folder's. `progress` is only called where there is something to make. Raises ModelError, FormatError as `convert`.
    """
    path = find(str(model))
    if path.is_dir():
        return path
    digest = sha256_of(path)
    folder = home() / "gguf" / f"{path.stem}-{digest[:_DIGITS]}"
    with _alone(folder):
        if not _is_there(folder, digest):
            has_blocks = any(is_quantised(place.type) for place in GGUFFile(path).places.values())
            convert(path, folder, keep_blocks=has_blocks, proof=False, progress=progress)
    return folder


def _is_there(folder: Path, digest: str) -> bool:
    """Made of that file, and no file of it missing or cut short."""
    try:
        manifest = read_manifest(folder, KIND, ModelError)
        verify(folder, manifest, ModelError, content=False)
        return bool(manifest["conversion"]["source_sha256"] == digest)
    except (ModelError, KeyError, TypeError):
        return False


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time; the lock's file stays, for whoever waits for it has it open."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = open(folder.with_name(f".{folder.name}.lock"), "w")  # noqa: SIM115 - closed below
    except OSError as problem:
        raise ModelError(
            f"{folder.parent}, where model folders of GGUF files are kept, cannot be written: {problem.strerror}. Set "
            "HANBIT_HOME to a folder of yours, or `hanbit convert FILE.gguf FOLDER --keep-blocks` and name FOLDER"
        ) from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield

"""What a SOURCE on the command line means: a file, a folder of files, or the name of a built-in corpus."""

import difflib
import hashlib
import importlib
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

from hanbit.common.errors import DataError
from hanbit.common.manifest import sha256_of
from hanbit.common.spelling import as_on_disk
from hanbit.data import corpora, files


@dataclass(frozen=True)
class Source:
    """One stream of documents whose content is known by its digest."""

    name: str  # as the user wrote it, or the path below the folder that was named
    bytes: int
    sha256: str
    documents: Callable[[], Iterator[tuple[str, int]]]  # (text, bytes read so far)


def find_sources(names: Sequence[str], text_key: str = "text") -> list[Source]:
    """Every file and corpus that `names` mean, in this order (folders sorted), digested. Raises DataError."""
    if not names:
        raise DataError(f"no source is named. Name files, folders or a built-in corpus ({', '.join(corpus_names())})")
    found = [source for name in names for source in _sources_of(name, text_key)]
    for index, source in enumerate(found):
        if source.name in {other.name for other in found[:index]}:
            raise DataError(f"{source.name} is named twice; its text would count twice. Leave one out")
    return found


def corpus_names() -> list[str]:
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(corpora.__path__))


@cache
def file_kinds() -> dict[str, ModuleType]:
    """Suffix -> the module that reads it."""
    modules = [
        importlib.import_module(f"{files.__name__}.{found.name}") for found in pkgutil.iter_modules(files.__path__)
    ]
    return {suffix: module for module in modules for suffix in module.SUFFIXES}


def _sources_of(name: str, text_key: str) -> list[Source]:
    path = as_on_disk(Path(name))
    if path.is_dir():
        inside = sorted(file for file in path.rglob("*") if file.is_file() and _suffix_of(file))
        if not inside:
            raise DataError(f"{path} holds no file that ends in {_known_suffixes()}. Name another folder, or a file")
        return [_file_source(file, text_key) for file in inside]
    if path.exists():
        if _suffix_of(path) is None:
            raise DataError(f"{path} ends in {path.suffix!r}; readable are {_known_suffixes()}. Convert or rename it")
        return [_file_source(path, text_key)]
    if name in corpus_names():
        return [_corpus_source(name)]
    near = difflib.get_close_matches(name, corpus_names(), 1)
    hint = (
        f"Did you mean the built-in corpus {near[0]!r}?" if near else f"Built-in corpora: {', '.join(corpus_names())}"
    )
    raise DataError(f"{name} is neither a file, a folder, nor a built-in corpus. {hint}")


def _suffix_of(path: Path) -> str | None:
    return next((suffix for suffix in file_kinds() if path.name.endswith(suffix)), None)


def _known_suffixes() -> str:
    return ", ".join(sorted(file_kinds()))


def _file_source(path: Path, text_key: str) -> Source:
    reader = file_kinds()[_suffix_of(path) or ""]
    try:
        before = path.stat()
        digest = sha256_of(path)
    except OSError as problem:
        raise DataError(f"{path} cannot be read ({problem.strerror}). Check its permissions") from None

    def documents() -> Iterator[tuple[str, int]]:
        yield from reader.documents(path, text_key)
        after = path.stat()
        if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            raise DataError(f"{path} was changed while it was read. Prepare again when nothing writes to it")

    return Source(str(path), before.st_size, digest, documents)


def _corpus_source(name: str) -> Source:
    module = importlib.import_module(f"{corpora.__name__}.{name.replace('-', '_')}")
    digest, size = hashlib.sha256(), 0
    for text in module.documents():
        content = text.encode("utf-8")
        digest.update(len(content).to_bytes(8, "little") + content)
        size += len(content)

    def documents() -> Iterator[tuple[str, int]]:
        end = 0
        for text in module.documents():
            end += len(text.encode("utf-8"))
            yield text, end

    return Source(name, size, digest.hexdigest(), documents)

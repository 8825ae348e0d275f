"""Text to token files: one folder with `tokens.bin`, `tokens.idx`, `tokenizer/` and, last of all, `hanbit.json`.

Sources are digested, a tokenizer is copied in or trained, documents are encoded in batches and appended in parts that
survive a kill. Memory does not grow with the corpus. The same sources and settings give the same bytes, disturbed or
not.
"""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hanbit.common import manifest
from hanbit.common.errors import ConfigError, DataError, RunFolderError
from hanbit.common.run_folder import RunFolder, lock_run_folder
from hanbit.data import partial
from hanbit.data.encode import Position, batches, encoded
from hanbit.data.megatron import bin_path, idx_path
from hanbit.data.partial import Partial
from hanbit.data.request import Request, check, existing
from hanbit.data.samples import KIND, STEM
from hanbit.tokenizers import train
from hanbit.tokenizers.load import copy_tokenizer, load
from hanbit.tokenizers.tokenizer import Tokenizer

TRAINING_BYTES = 256 << 20  # a larger corpus is thinned out evenly for training the tokenizer


@dataclass(frozen=True)
class Progress:
    """`done_bytes` of `total_bytes` of the sources have been read; tokens are those written by this call."""

    stage: Literal["tokenizer", "tokens"]
    done_bytes: int
    total_bytes: int
    tokens: int
    seconds: float


@dataclass(frozen=True)
class Prepared:
    """A whole token folder. `left_out`: documents that are blank or null.

    `new_tokens` is 0 if there was nothing to do, less than `tokens` after a resume.
    """

    folder: Path
    tokens: int
    documents: int
    left_out: int
    vocabulary_size: int
    new_tokens: int
    seconds: float


def prepare(
    sources: Sequence[str],
    output: str | Path,
    tokenizer: str | None = None,
    vocabulary: int | None = None,
    *,
    workers: int = 2,
    text_key: str = "text",
    progress: Callable[[Progress], None] = lambda progress: None,
) -> Prepared:
    """Make the token folder `output`, go on with it if it was cut off, or leave it as it is if it is whole.

    tokenizer: a Hugging Face folder or tokenizer.json; None trains one of `vocabulary` tokens (8192) on the sources.
    workers: encoding threads. Raises DataError for sources, tokenizers and folders that cannot be used, ConfigError for
    arguments that contradict each other.
    """
    started = time.perf_counter()
    if workers < 1:
        raise ConfigError(f"workers={workers}: at least 1 thread has to encode")
    request = check(sources, output, tokenizer, vocabulary, text_key=text_key)
    if request.done is None:
        with partial.disk_errors_named(request.output):
            return _make(request, workers, progress, started)
    partial.remove_left_over(request.output)
    return _unchanged(request, request.done, started)


def _make(request: Request, workers: int, progress: Callable[[Progress], None], started: float) -> Prepared:
    output = request.output
    with _locked(output):
        if (output / manifest.NAME).exists():  # another process finished it while this one looked
            return _unchanged(request, existing(output) or {}, started)
        work = Partial(output, request.settings)
        before = work.state.tokens
        if not work.tokenizer.exists():
            with work.new_tokenizer() as folder:
                _put_tokenizer(request, folder, progress, started)
        tokenizer = request.tokenizer or load(work.tokenizer)
        if not work.state.complete:
            _write_tokens(request, work, tokenizer, workers, progress, started)
        work.move_out()
        _write_manifest(request, work, tokenizer)
        partial.remove_left_over(output)
    state, new = work.state, work.state.tokens - before
    vocabulary = tokenizer.vocabulary_size
    return Prepared(output, state.tokens, state.documents, state.left_out, vocabulary, new, _since(started))


def _write_tokens(
    request: Request,
    work: Partial,
    tokenizer: Tokenizer,
    workers: int,
    progress: Callable[[Progress], None],
    started: float,
) -> None:
    before = work.state.tokens
    for part in encoded(batches(request.sources, work.state.position), tokenizer, work.dtype, workers):
        work.add(part)
        progress(Progress("tokens", part.done_bytes, request.total_bytes, work.tokens - before, _since(started)))
    work.commit()
    if work.state.tokens == 0:
        raise _empty(request)
    work.complete()


def _put_tokenizer(request: Request, folder: Path, progress: Callable[[Progress], None], started: float) -> None:
    """The given tokenizer's files, or a trained one's, into `folder`."""
    if request.tokenizer is not None:
        copy_tokenizer(request.tokenizer, folder)
        return
    texts = _training_texts(request, progress, started)
    first = next(texts, None)
    if first is None:
        raise _empty(request)
    train.save(train.train(itertools.chain([first], texts), request.settings["tokenizer"]["trained"]), folder)


def _training_texts(request: Request, progress: Callable[[Progress], None], started: float) -> Iterator[str]:
    """All documents, or every n-th of a corpus above TRAINING_BYTES: the counts of words need memory."""
    stride = 1 + request.total_bytes // TRAINING_BYTES
    for number, batch in enumerate(batches(request.sources, Position())):
        progress(Progress("tokenizer", batch.done_bytes, request.total_bytes, 0, _since(started)))
        yield from batch.texts[number % stride :: stride]


def _write_manifest(request: Request, work: Partial, tokenizer: Tokenizer) -> None:
    tokenizer_files = sorted(f"tokenizer/{file.name}" for file in (request.output / "tokenizer").iterdir())
    manifest.write_manifest(
        request.output,
        KIND,
        [bin_path(Path(STEM)).name, idx_path(Path(STEM)).name, *tokenizer_files],
        tokens=work.state.tokens,
        documents=work.state.documents,
        left_out=work.state.left_out,
        largest_token=work.state.largest_token,
        vocabulary_size=tokenizer.vocabulary_size,
        end_id=tokenizer.require_end_id(),
        dtype=work.dtype.name,
        tokenizer_sha256=tokenizer.sha256,
        settings=request.settings,
        sources=[{"name": source.name, "bytes": source.bytes, "sha256": source.sha256} for source in request.sources],
    )


def _unchanged(request: Request, facts: dict[str, Any], started: float) -> Prepared:
    partial.refuse_other_settings(facts["settings"], request.settings, request.output)
    left_out = facts.get("left_out", 0)  # folders of older versions do not count them
    return Prepared(
        request.output, facts["tokens"], facts["documents"], left_out, facts["vocabulary_size"], 0, _since(started)
    )


def _empty(request: Request) -> DataError:
    names = ", ".join(source.name for source in request.sources)
    return DataError(f"no text in {names}: every document is empty or blank. Name sources that hold text")


@contextlib.contextmanager
def _locked(output: Path) -> Iterator[None]:
    try:
        file = lock_run_folder(RunFolder(output))
    except RunFolderError:
        raise DataError(
            f"{output} is being prepared by another process. Wait for it, or choose another --output"
        ) from None
    with file:
        yield


def _since(started: float) -> float:
    return time.perf_counter() - started

"""Documents to token ids on several threads, in the order they came, with a bounded number of them in memory."""

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import tokenizers

from hanbit.data.sources import Source
from hanbit.kernels.library import native
from hanbit.tokenizers.tokenizer import Tokenizer
from hanbit.tokenizers.words import Encoder

_BATCH_CHARACTERS = 1 << 18  # a tenth of a second of work: large enough to amortise, small enough to share out evenly
_BATCHES_PER_WORKER = 3


@dataclass(frozen=True)
class Position:
    """How far into the sources: everything before document `document` of source number `source` is done."""

    source: int = 0
    document: int = 0


@dataclass(frozen=True)
class Batch:
    texts: list[str]
    left_out: int  # documents since the batch before that are blank or null
    after: Position
    done_bytes: int  # of all sources, read so far


@dataclass(frozen=True)
class Encoded:
    tokens: np.ndarray  # [tokens], uint16 or int32
    lengths: np.ndarray  # [documents] int32, the end-of-document id counted
    left_out: int
    after: Position
    done_bytes: int


def batches(sources: list[Source], start: Position) -> Iterator[Batch]:
    """Documents with something in them, from `start` on, in batches of about 256 K characters."""
    texts: list[str] = []
    size, left_out, before, at, end = 0, 0, sum(source.bytes for source in sources[: start.source]), start, 0
    for index, source in enumerate(sources[start.source :], start.source):
        at, end = Position(index, 0), 0
        for text, end in source.documents():
            at = Position(index, at.document + 1)
            if at.document <= start.document and index == start.source:
                continue
            if not text or text.isspace():
                left_out += 1
                continue
            texts.append(text)
            size += len(text)
            if size >= _BATCH_CHARACTERS:
                yield Batch(texts, left_out, at, before + end)
                texts, size, left_out = [], 0, 0
        before += source.bytes
    if texts or left_out:
        yield Batch(texts, left_out, at, before)


def encoded(found: Iterable[Batch], tokenizer: Tokenizer, dtype: np.dtype, workers: int) -> Iterator[Encoded]:
    """`found`, encoded by `workers` threads, in order; the tokenizer's end id closes every document.

    Each thread encodes alone and the library's own threads stay off: its work outside Python overlaps with the copying
    of ids inside Python. On 2 cores (AMD EPYC, SmolLM2's tokenizer) that gave 2.4 M tokens/s, one thread with the
    library's parallelism 1.9, two processes 2.2.
    """
    end = tokenizer.require_end_id()
    with tokenizer.reading_documents() as core, _library_threads_off(), ThreadPoolExecutor(workers, "encode") as pool:
        encode = _encoder(core, end, dtype)
        waiting: deque[Future[Encoded]] = deque()
        try:
            for batch in found:
                waiting.append(pool.submit(encode, batch))
                if len(waiting) >= workers * _BATCHES_PER_WORKER:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _encoder(core: tokenizers.Tokenizer, end: int, dtype: np.dtype) -> Callable[[Batch], Encoded]:
    encoder, closing = Encoder(core, dtype, native()), np.array([end], dtype)

    def encode(batch: Batch) -> Encoded:
        found = encoder.encode(batch.texts)
        tokens = np.concatenate([np.empty(0, dtype), *(part for ids in found for part in (ids, closing))])
        lengths = np.array([len(ids) + 1 for ids in found], "<i4")
        return Encoded(tokens, lengths, batch.left_out, batch.after, batch.done_bytes)

    return encode


@contextlib.contextmanager
def _library_threads_off() -> Iterator[None]:
    """The library reads this variable at every call, and has no other switch."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before

"""Texts to ids by their words, cut and looked up by the native library (kernels/native/words.h). No torch.

Python's lock is let go meanwhile, so that threads do not wait for each other; only new words come back to Python.
"""

import ctypes
import weakref
from array import array
from collections.abc import Callable
from itertools import accumulate, chain
from typing import Any

import numpy as np

MOST_WORDS = 1 << 20  # that are remembered; 48 MB, or twice that while a thread goes on with the words before


class NativeWords:
    """Cuts texts as one of the patterns of words.py does, and knows the ids of words it met. Threads may share it.

    ids_of: words, none twice -> the ids of each; threads may call it at once.
    """

    def __init__(
        self, library: ctypes.CDLL, by_gpt2: bool, ids_of: Callable[[list[str]], list[list[int]]], most_words: int
    ) -> None:
        self._library, self._ids_of = library, ids_of
        self._words = ctypes.c_void_p(library.hanbit_words_new(by_gpt2, most_words))
        ending = weakref.finalize(self, library.hanbit_words_free, self._words)
        ending.atexit = False  # a daemon thread may be reading when the process ends

    def encode(self, texts: list[str], are_cut: list[bool]) -> tuple[np.ndarray, list[int]]:
        """The ids of all texts, one after another [tokens] int32, and where each ends; one not cut counts as a word.

        Raises UnicodeEncodeError for half a surrogate pair.
        """
        contents = [text.encode() for text in texts]
        joined, ends = b"".join(contents), array("q", accumulate(map(len, contents)))
        reading = self._library.hanbit_words_read(self._words, joined, _address(ends), bytes(are_cut), len(texts))
        try:
            self._learn(reading, joined)
            found = reading.contents
            tokens = np.frombuffer(ctypes.string_at(found.ids or 0, 4 * found.num_ids), np.int32)
            return tokens, found.ends[: len(texts)]
        finally:
            self._library.hanbit_reading_free(reading)

    def _learn(self, reading: Any, joined: bytes) -> None:
        found = reading.contents
        places = found.new_words[: 2 * found.num_new]
        new = [joined[begin:end].decode() for begin, end in zip(places[::2], places[1::2], strict=True)]
        ids = self._ids_of(new)
        flat, ends = array("i", chain.from_iterable(ids)), array("q", accumulate(map(len, ids)))
        self._library.hanbit_words_learn(self._words, reading, _address(flat), _address(ends))


def _address(numbers: array) -> int:
    return numbers.buffer_info()[0]

"""T5's pre-training (Raffel et al., arXiv 1910.10683, section 3.1.4): spans of the text are taken out, the encoder sees
a sentinel in the place of each, the decoder writes the sentinels, each with what it stands for.

    text     the quick brown fox jumps over the lazy dog
    tokens   the quick <0> jumps over <1> dog </s>
    targets  <0> brown fox <1> the lazy </s>

15% of the text, in spans of 3 tokens on the mean. Each row of text is as long as it must be for `tokens` to have the
sequence length exactly; so `targets` have one length, too. What is taken out is a function of seed and row alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

NOISE = 0.15
MEAN_SPAN = 3.0


@dataclass(frozen=True)
class Lengths:
    """In tokens. `text` becomes `encoder` and `decoder`, which have `spans` sentinels and an end each."""

    text: int
    noise: int
    spans: int

    @property
    def encoder(self) -> int:
        return self.text - self.noise + self.spans + 1

    @property
    def decoder(self) -> int:
        return self.noise + self.spans + 1


def lengths_for(sequence_length: int) -> Lengths:
    """The longest text whose encoder side has `sequence_length` tokens; as T5's `random_spans_helper`."""
    text = sequence_length
    while _of_text(text + 1).encoder <= sequence_length:
        text += 1
    return _of_text(text)


def _of_text(text: int) -> Lengths:
    noise = max(1, round(text * NOISE))
    return Lengths(text, noise, max(1, round(noise / MEAN_SPAN)))


class Spans:
    """`rows`: numbered samples (hanbit.data.samples) whose "tokens" are `lengths.text` long.

    sentinels: ids, at least `lengths.spans` of them; end and start: ids of the end of both sides and of the decoder's
    beginning.
    """

    def __init__(self, rows: Any, lengths: Lengths, sentinels: Sequence[int], end: int, start: int, seed: int) -> None:
        assert len(sentinels) >= lengths.spans
        self.rows, self.lengths, self._seed = rows, lengths, seed
        self._sentinels = np.array(sentinels[: lengths.spans], np.int64)
        self._end, self._start = end, start

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def digest(self) -> str:
        return self.rows.digest

    def check_vocabulary(self, size: int) -> None:
        self.rows.check_vocabulary(size)

    def count_targets(self, first: int, count: int) -> int:
        """Every token of the decoder is one."""
        return count * self.lengths.decoder

    def arrays(self, indices: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
        """A batch by name: tokens [n, encoder], decoder_tokens and targets [n, decoder], int64."""
        texts = self.rows.arrays(indices)["tokens"]
        sides = [self._sides(text, int(index)) for text, index in zip(texts, indices, strict=True)]
        tokens, targets = (np.stack(side) for side in zip(*sides, strict=True))
        shifted = np.concatenate((np.full_like(targets[:, :1], self._start), targets[:, :-1]), axis=1)
        return {"tokens": tokens, "decoder_tokens": shifted, "targets": targets}

    def _sides(self, text: np.ndarray, index: int) -> tuple[np.ndarray, np.ndarray]:
        """What the encoder sees and what the decoder writes. `index` counts over epochs, so each has its own spans."""
        random = np.random.default_rng((self._seed, index))
        kept = _cut(len(text) - self.lengths.noise, self.lengths.spans, random)
        taken = _cut(self.lengths.noise, self.lengths.spans, random)
        ends = np.cumsum(np.stack((kept, taken), axis=1).reshape(-1))
        parts = np.split(text, ends[:-1])  # kept, taken, kept, taken ...
        sentinels = self._sentinels[:, None]
        encoder = [part for pair in zip(parts[::2], sentinels, strict=True) for part in pair]
        decoder = [part for pair in zip(sentinels, parts[1::2], strict=True) for part in pair]
        end = np.array([self._end])
        return np.concatenate([*encoder, end]), np.concatenate([*decoder, end])


def _cut(items: int, parts: int, random: np.random.Generator) -> np.ndarray:
    """Lengths of `parts` parts of `items` items, none empty, every cut as likely as any other."""
    borders = np.sort(random.choice(items - 1, parts - 1, replace=False)) + 1
    return np.diff(np.concatenate(([0], borders, [items])))

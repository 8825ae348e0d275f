"""New pieces for a byte-level BPE tokenizer, learnt from a corpus on top of its own tokens.

The corpus is encoded with the old tokenizer. Letters that take several of its tokens become one first, the most
frequent ones; then BPE goes on over whole letters. The new merges stand behind all old ones, so a text is cut as it
always was, and then some neighbours are joined: no text needs more tokens than before, and each new piece is a run of
old ones. Only letters beyond ASCII are joined, with a single space before them: a text of ASCII keeps its tokens.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from hanbit.common.errors import DataError
from hanbit.tokenizers.tokenizer import Tokenizer

_FIRST_LETTER = 0x10000  # unit i is written as this letter + i for the library's trainer: no whitespace, no surrogate

Ids = tuple[int, ...]  # old tokens in a row


@dataclass(frozen=True)
class Extended:
    """`pieces`: new id -> the old ids whose text it joins, in order; new ids follow the old ones without a gap."""

    core: tokenizers.Tokenizer
    pieces: dict[int, Ids]


def extend(tokenizer: Tokenizer, texts: Iterable[str], new_tokens: int) -> Extended:
    """Up to `new_tokens` more tokens, fewer where `texts` have no more pairs that occur twice.

    Raises DataError where the tokenizer is no byte-level BPE, or the texts give nothing to add.
    """
    described = json.loads(tokenizer.core.to_str())
    _check(described, tokenizer)
    model = described["model"]
    merges = dict.fromkeys(map(tuple, model["merges"]))
    vocabulary = tokenizer.core.get_vocab(with_added_tokens=True)
    growing = _Growing(vocabulary, merges, tokenizer.vocabulary_size, new_tokens)
    runs = _runs(tokenizer.core, texts)
    letters = _build_letters(growing, runs, new_tokens // 2)
    for left, right in _merges(runs, letters, new_tokens):
        growing.join(left, right)
    if not growing.pieces:
        raise DataError(f"the text gives {tokenizer.source} no new piece: no letters beyond ASCII occur twice in it")
    # added tokens stand in the model's own table, too, or the library would number them anew behind it
    model |= {"vocab": vocabulary, "merges": [list(pair) for pair in growing.merges]}
    core = tokenizers.Tokenizer.from_str(json.dumps(described))
    assert core.get_vocab(with_added_tokens=True) == vocabulary, "an old token has another id"
    return Extended(core, growing.pieces)


def _check(described: dict[str, Any], tokenizer: Tokenizer) -> None:
    model, decoder = described["model"], described.get("decoder") or {}
    plain = not any(model.get(key) for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"))
    if model["type"] != "BPE" or decoder.get("type") != "ByteLevel" or not plain:
        raise DataError(
            f"{tokenizer.source} is no byte-level BPE tokenizer (GPT-2, Llama 3, Qwen, SmolLM2, or one that `hanbit "
            "prepare` trained), and only such can be extended"
        )


@dataclass
class _Growing:
    """A vocabulary, name -> id, that takes on at most `most` pieces. `merges`: a dict for its order."""

    vocabulary: dict[str, int]
    merges: dict[tuple[str, str], None]
    old_size: int
    most: int
    pieces: dict[int, Ids] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.names = {id: name for name, id in self.vocabulary.items()}

    def join(self, left: Ids, right: Ids) -> bool:
        """False where there is no room. Different runs of one text share a piece."""
        pair = ("".join(self.names[id] for id in left), "".join(self.names[id] for id in right))
        name = "".join(pair)
        if name not in self.vocabulary:
            if len(self.pieces) == self.most:
                return False
            new = self.old_size + len(self.pieces)
            self.vocabulary[name], self.pieces[new] = new, (*left, *right)
        self.merges.setdefault(pair)  # an old one keeps its rank
        return True


def _runs(core: tokenizers.Tokenizer, texts: Iterable[str]) -> Counter[tuple[Ids, ...]]:
    """Words' longest rows of letters beyond ASCII, each the tokens that it takes, and how often each row occurs."""
    words: Counter[str] = Counter()
    for text in texts:
        clean = core.normalizer.normalize_str(text) if core.normalizer else text
        words.update(word for word, _ in core.pre_tokenizer.pre_tokenize_str(clean))

    @cache
    def text_of(ids: Ids) -> str:
        return core.decoder.decode([core.id_to_token(id) for id in ids])

    runs: Counter[tuple[Ids, ...]] = Counter()
    for word, count in words.items():
        run: tuple[Ids, ...] = ()
        for unit in [*_whole(core.model.tokenize(word), text_of), ()]:
            text = text_of(unit)
            if not text.isascii() and text.lstrip(" ").isalpha():
                run = (*run, unit)
                continue
            if len(run) > 1 or (run and len(run[0]) > 1):
                runs[run] += count
            run = (unit,) if text == " " else ()
    return runs


def _whole(tokens: list[Any], text_of: Any) -> Iterator[Ids]:
    """Tokens together until they are whole letters: half of one reads as U+FFFD."""
    unit: Ids = ()
    for token in tokens:
        unit = (*unit, token.id)
        if "\ufffd" not in text_of(unit):
            yield unit
            unit = ()
    if unit:
        yield unit


def _build_letters(growing: _Growing, runs: Counter[tuple[Ids, ...]], most: int) -> set[Ids]:
    """Merges from left to right for the most frequent letters; returns those that are one token now, or always were."""
    counts: Counter[Ids] = Counter()
    for run, count in runs.items():
        for unit in run:
            counts[unit] += count
    built = set()
    for unit, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if len(unit) > 1 and (count < 2 or len(growing.pieces) + len(unit) - 1 > most):
            continue
        if all(growing.join(unit[:end], unit[end : end + 1]) for end in range(1, len(unit))):
            built.add(unit)
    return built


def _merges(runs: Counter[tuple[Ids, ...]], letters: set[Ids], most: int) -> Iterator[tuple[Ids, Ids]]:
    """What BPE would join next, the old ids on its left and on its right."""
    units = sorted(letters)
    sign_of = {unit: chr(_FIRST_LETTER + place) for place, unit in enumerate(units)}
    core = tokenizers.Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(vocab_size=len(units) + most, min_frequency=2, show_progress=False)
    core.train_from_iterator(_written(runs, sign_of), trainer)

    def ids(signs: str) -> Ids:
        return tuple(id for sign in signs for id in units[ord(sign) - _FIRST_LETTER])

    for left, right in json.loads(core.to_str())["model"]["merges"]:
        yield ids(left), ids(right)


def _written(runs: Counter[tuple[Ids, ...]], sign_of: dict[Ids, str]) -> Iterator[str]:
    """Each run as often as it occurs; a letter that is not one token ends a word."""
    for run, count in sorted(runs.items()):
        word = "".join(sign_of.get(unit, " ") for unit in run)
        for start in range(0, count, 1000):
            yield " ".join([word] * min(1000, count - start))

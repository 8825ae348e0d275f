"""Conversations as training samples: the chat template's text as tokens, and which of them the assistant says.

Only the assistant's answers are targets, to their end token included; everything else is -1, which the loss leaves
out. Where an answer begins and ends is found by rendering the conversation up to it: what a model is given when it is
asked (`add_generation_prompt`) is a prefix of the whole, and so are its tokens. Rows are padded on the right to one
length; a row holds one conversation, or with packing several that do not attend to one another.
"""

import contextlib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from hanbit.common.errors import DataError, GenerationError
from hanbit.data.apart import IGNORED, Arrays, kept_apart, packed
from hanbit.data.conversations import Conversation, Messages, read_conversations
from hanbit.data.order import Seed, shuffled, whole_epochs
from hanbit.data.samples import Packing, Part, borders
from hanbit.tokenizers import chat
from hanbit.tokenizers.tokenizer import Tokenizer

TooLong = Literal["refuse", "truncate"]


@dataclass(frozen=True)
class Sample:
    """`tokens` [n] int64; `is_answer` [n] bool."""

    tokens: np.ndarray
    is_answer: np.ndarray


def encode(conversation: Conversation, tokenizer: Tokenizer) -> Sample:
    """Raises DataError where the template refuses the conversation, leaves its answers out, or changes what it has said
    before."""
    messages, place = conversation.messages, conversation.place
    whole = _rendered(tokenizer, messages, place, is_asked=False)
    tokens = tokenizer.encode(whole, add_special_tokens=False)
    is_answer = np.zeros(len(tokens), bool)
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        asked = _rendered(tokenizer, messages[:index], place, is_asked=True)
        answered = _rendered(tokenizer, messages[: index + 1], place, is_asked=False).rstrip()
        if not (answered.startswith(asked) and whole.startswith(answered)):
            raise DataError(
                f"{place}: the chat template of {tokenizer.source} writes an earlier message otherwise once a later "
                "one is there, so what the model would be asked is not what it learns. Give each answer a line"
            )
        first, last = (_common(tokenizer.encode(text, add_special_tokens=False), tokens) for text in (asked, answered))
        is_answer[first:last] = True
    if not is_answer.any():
        raise DataError(
            f"{place}: the chat template of {tokenizer.source} writes nothing of the answer, so there is nothing to "
            "learn. Give it a chat_template.jinja that writes what the assistant says"
        )
    return Sample(np.array(tokens, np.int64), is_answer)


def _rendered(tokenizer: Tokenizer, messages: Messages, place: str, *, is_asked: bool) -> str:
    try:
        return chat.render(tokenizer, messages, add_generation_prompt=is_asked)
    except GenerationError as problem:
        raise DataError(f"{place}: {problem}") from None


def _common(part: list[int], whole: list[int]) -> int:
    """How many tokens two lists share from the start; less than `part` only where a token spans the border."""
    same = (one == other for one, other in zip(part, whole, strict=False))
    return next((place for place, is_same in enumerate(same) if not is_same), min(len(part), len(whole)))


def end_of_answers(tokenizer: Tokenizer) -> int | None:
    """The special token that the chat template writes behind an answer, where it does: no answer goes on after it.

    A template may want to be told its part by a system message first.
    """
    messages = [{"role": role, "content": "1"} for role in ("system", "user", "assistant")]
    for asked in (messages[1:], messages):
        with contextlib.suppress(DataError):
            sample = encode(Conversation(asked, tokenizer.source), tokenizer)
            last = int(sample.tokens[sample.is_answer][-1])
            return last if last in tokenizer.special_ids else None
    return None


class Answers:
    """Numbered rows of one or, packed, several samples; row g is `permutation(seed, g // n)[g % n]`."""

    def __init__(
        self,
        samples: Sequence[Sample],
        sequence_length: int,
        seed: Seed | None,
        pad_id: int,
        packing: Packing = "none",
    ) -> None:
        self.samples, self.sequence_length, self._seed, self._pad_id = samples, sequence_length, seed, pad_id
        self._is_packed = packing == "documents"
        lengths = [len(sample.tokens) - 1 for sample in samples]
        self._rows = packed(lengths, sequence_length) if self._is_packed else [[place] for place in range(len(samples))]
        counts = [int(sample.is_answer[1:].sum()) for sample in samples]
        self._counts = np.array([sum(counts[place] for place in row) for row in self._rows], np.int64)

    def __len__(self) -> int:
        """Rows of one epoch."""
        return len(self._rows)

    @property
    def digest(self) -> str:
        """SHA-256 of all tokens and answers, in order: what a resumed run must find again."""
        digest = hashlib.sha256()
        for sample in self.samples:
            digest.update(
                len(sample.tokens).to_bytes(8, "little") + sample.tokens.tobytes() + sample.is_answer.tobytes()
            )
        return digest.hexdigest()

    def arrays(self, indices: Sequence[int] | np.ndarray) -> Arrays:
        """A batch by name: "tokens" and "targets" [len(indices), sequence_length] int64, owned by the caller.

        Packed: "documents" and "positions" too; what is left of a row is a document of its own.
        """
        shape = (len(indices), self.sequence_length)
        tokens, targets = np.full(shape, self._pad_id, np.int64), np.full(shape, IGNORED, np.int64)
        begins = []
        for row, place in enumerate(shuffled(indices, len(self), self._seed)):
            begins.append(self._fill(tokens[row], targets[row], self._rows[place]))
        arrays = {"tokens": tokens, "targets": targets}
        return {**arrays, **kept_apart(begins, self.sequence_length)} if self._is_packed else arrays

    def _fill(self, tokens: np.ndarray, targets: np.ndarray, places: Sequence[int]) -> np.ndarray:
        """One row; returns where its second sample begins, its third, and the rest."""
        ends = np.cumsum([len(self.samples[place].tokens) - 1 for place in places])
        for end, place in zip(ends, places, strict=True):
            sample = self.samples[place]
            here = slice(end - len(sample.tokens) + 1, end)
            tokens[here] = sample.tokens[:-1]
            targets[here] = np.where(sample.is_answer[1:], sample.tokens[1:], IGNORED)
        return ends

    def count_targets(self, first: int, count: int) -> int:
        """Answer tokens of `count` rows from global index `first` on: what their loss is divided by."""
        whole, others = whole_epochs(first, count, len(self))
        rest = [self._counts[shuffled(indices, len(self), self._seed)].sum() for indices in others]
        return int(whole * self._counts.sum() + sum(rest))

    def check_vocabulary(self, size: int) -> None:
        """Refuse conversations whose tokens a model with `size` embedding rows cannot look up."""
        largest = max(int(sample.tokens.max()) for sample in self.samples)
        if largest >= size:
            raise DataError(
                f"the conversations hold token {largest}, the model's vocabulary has ids 0..{size - 1} "
                f"(model.vocabulary={size}). Use the tokenizer that belongs to the model"
            )


def open_answers(
    path: Path | str,
    tokenizer: Tokenizer,
    sequence_length: int,
    *,
    seed: Seed | None,
    part: Part = "train",
    split: float | str = 0.0,
    packing: Packing = "none",
    too_long: TooLong = "refuse",
) -> Answers:
    """One part of a file of conversations; the arguments are `open_samples`'s. Raises DataError with file:line."""
    conversations = read_conversations(path)
    begin, end = borders(len(conversations), part, split)
    chosen = conversations[begin:end]
    if not chosen:
        raise DataError(f"{path} has {len(conversations)} conversation(s), data.split={split} leaves none for {part}")
    samples = [fitted(encode(one, tokenizer), sequence_length, too_long, one.place) for one in chosen]
    pad_id = tokenizer.pad_id if tokenizer.pad_id is not None else tokenizer.end_id or 0
    return Answers(samples, sequence_length, seed if part == "train" else None, pad_id, packing)


def fitted(sample: Sample, sequence_length: int, too_long: TooLong, place: str) -> Sample:
    """The sample, cut where it is too long and that is wished for. Raises DataError with the place otherwise."""
    room, length = sequence_length + 1, len(sample.tokens)
    if length > room and too_long == "refuse":
        raise DataError(
            f"{place}: the conversation has {length} tokens, batch.sequence_length={sequence_length} holds {room}. "
            f"Raise it to {length - 1}, shorten the line, or cut such ends off with data.too_long=truncate"
        )
    if not sample.is_answer[1:room].any():
        raise DataError(f"{place}: batch.sequence_length={sequence_length} leaves nothing of the answer. Raise it")
    return Sample(sample.tokens[:room], sample.is_answer[:room])

"""Sequences of tokens that must not come: the last token of one is forbidden where the others have just come. No torch.

As FasterTransformer's `bad_words_list` and transformers' `bad_words_ids`: prompt and answer count as one text.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from hanbit.tokenizers.tokenizer import Tokenizer

Word = str | Sequence[int]


class BadWords:
    """`words`: token ids of each, at least one."""

    def __init__(self, words: Iterable[Sequence[int]]) -> None:
        self._always: set[int] = set()
        self._by_last: defaultdict[int, list[tuple[list[int], int]]] = defaultdict(list)  # last of the beginning
        for *beginning, end in words:
            if beginning:
                self._by_last[beginning[-1]].append((beginning, end))
            else:
                self._always.add(end)

    def after(self, tokens: Sequence[int]) -> set[int]:
        """What must not follow these tokens."""
        found = set(self._always)
        for beginning, end in self._by_last.get(tokens[-1], ()) if tokens else ():
            if list(tokens[-len(beginning) :]) == beginning:
                found.add(end)
        return found


def token_ids_of(words: Iterable[Word], tokenizer: Tokenizer) -> list[list[int]]:
    """A text stands for two words, as it is at the beginning of a line and as it is behind a space."""
    found = []
    for word in words:
        if not isinstance(word, str):
            found.append(list(word))
            continue
        bare = tokenizer.encode(word.lstrip() or word, add_special_tokens=False)
        spaced = tokenizer.encode(" " + word.lstrip(), add_special_tokens=False)
        found.append(bare)
        if spaced[-len(bare) :] != bare:
            found.append(spaced)
    return [ids for ids in found if ids]

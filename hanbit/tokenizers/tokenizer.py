"""One tokenizer as the rest of the house sees it: text to ids and back, and the ids with a role."""

import contextlib
from collections.abc import Iterable, Iterator
from functools import cached_property

import numpy as np
import tokenizers

from hanbit.common.errors import DataError, GenerationError


class Tokenizer:
    """A thin face over `tokenizers.Tokenizer` (`core`). Made by `load`.

    `source` is where it came from, `sha256` the digest of its tokenizer.json.
    """

    def __init__(
        self, core: tokenizers.Tokenizer, roles: dict[str, str], chat_template: str | None, source: str, sha256: str
    ) -> None:
        self.core = core
        self.roles = roles  # "eos", "bos", "pad", "unk" -> token
        self.chat_template = chat_template
        self.source = source
        self.sha256 = sha256
        # Padding and truncation stored in tokenizer.json would silently change what a document becomes.
        core.no_padding()
        core.no_truncation()
        self.special_ids = frozenset(id for id, token in core.get_added_tokens_decoder().items() if token.special)

    def __len__(self) -> int:
        return self.vocabulary_size

    @cached_property
    def vocabulary_size(self) -> int:
        """Rows that an embedding needs: one above the highest id, added tokens included."""
        highest = max(self.core.get_vocab(with_added_tokens=True).values(), default=-1)
        return highest + 1

    @property
    def end_id(self) -> int | None:
        """Id that ends a document and an answer (`eos_token`)."""
        return self._id("eos")

    @property
    def begin_id(self) -> int | None:
        return self._id("bos")

    @property
    def pad_id(self) -> int | None:
        return self._id("pad")

    @property
    def unknown_id(self) -> int | None:
        return self._id("unk")

    @cached_property
    def begin_ids(self) -> list[int]:
        """What its own template puts before a text, mostly nothing or `begin_id`."""
        encoded = self.core.encode("a", add_special_tokens=True)
        return encoded.ids[: (*encoded.special_tokens_mask, 0).index(0)]

    def require_end_id(self) -> int:
        """`end_id`, or a DataError that says how to name one."""
        if self.end_id is None:
            raise DataError(
                f"{self.source} names no end-of-text token. Add eos_token to its tokenizer_config.json, "
                "or use a tokenizer that has one"
            )
        return self.end_id

    def id_of(self, token: str) -> int | None:
        return self.core.token_to_id(token)

    def token_of(self, id: int) -> str | None:
        return self.core.id_to_token(id)

    @contextlib.contextmanager
    def reading_documents(self) -> Iterator[tokenizers.Tokenizer]:
        """`core`, to which text is text inside the block: `<|endoftext|>` written in a document does not end it.

        What the tokenizer adds without marking it special (a tag, a run of spaces) stays one token. The switch is one
        per tokenizer: encode no prompts with this one meanwhile (a copy for documents would take 0.13 s to make).
        """
        before = self.core.encode_special_tokens
        self.core.encode_special_tokens = True
        try:
            yield self.core
        finally:
            self.core.encode_special_tokens = before

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Ids of one text. `add_special_tokens` lets the tokenizer's own template add begin and end.

        A special token written in the text becomes its id: chat templates write them. For text of strangers that must
        stay text, see `reading_documents`. Raises GenerationError for half a surrogate pair, which is how Python holds
        a byte of the command line that is not UTF-8, and JSON an emoji cut in two.
        """
        try:
            return self.core.encode(text, add_special_tokens=add_special_tokens).ids
        except TypeError:  # the library says no more than that it wants text
            raise _not_unicode(text) from None

    def encode_at_most(self, text: str, most: int) -> list[int]:
        """Ids as of `encode`, of as much of the text as makes `most` of them, what the template adds included."""
        ids = self.encode(text)
        if len(ids) <= most:
            return ids
        added = self.core.num_special_tokens_to_add(False)
        if most < added:
            raise GenerationError(f"{most} tokens are fewer than the {added} that the tokenizer adds. Allow more")
        cut = self.core.encode(text, add_special_tokens=False)
        cut.truncate(most - added)
        return self.core.post_process(cut).ids

    def decode(self, ids: Iterable[int] | np.ndarray, skip_special_tokens: bool = False) -> str:
        """Text of ids. Bytes that are no UTF-8 become U+FFFD."""
        return self.core.decode([int(id) for id in ids], skip_special_tokens=skip_special_tokens)

    def special_id(self, token: str) -> int | None:
        """Of a special token; None where it is text, or nothing."""
        id = self.core.token_to_id(token) if token else None
        return id if id in self.special_ids else None

    def _id(self, role: str) -> int | None:
        content = self.roles.get(role)
        return None if content is None else self.core.token_to_id(content)


def _not_unicode(text: str) -> GenerationError:
    place = next((place for place, letter in enumerate(text) if "\ud800" <= letter <= "\udfff"), None)
    assert place is not None, f"the tokenizer takes no {type(text).__name__}"
    code = ord(text[place])
    found = f"byte 0x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"half a surrogate pair (\\u{code:04x})"
    return GenerationError(
        f"the text has {found} at character {place + 1}, which is not UTF-8. Convert it, or take that out"
    )

"""Ids that a pre-training task needs beside those of the text: the tokenizer's own where it has them, else from the top
of the model's vocabulary downwards, where no text may be.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hanbit.common.errors import DataError
from hanbit.tokenizers.tokenizer import Tokenizer

BERT_TOKENS = ("[CLS]", "[SEP]", "[MASK]", "[PAD]")
T5_END = "</s>"
FEWEST_SENTINELS = 100  # as many as T5's tokenizer has


@dataclass(frozen=True)
class Reserved:
    """`ids` by token. `text_ids`: ids of the text are below this."""

    ids: dict[str, int]
    text_ids: int


def sentinels(count: int) -> tuple[str, ...]:
    """Tokens that stand for a span that was taken out, the first span's first."""
    return tuple(f"<extra_id_{number}>" for number in range(count))


def t5_tokens(num_spans: int) -> tuple[str, ...]:
    return (*sentinels(max(num_spans, FEWEST_SENTINELS)), T5_END)


def missing(tokens: Sequence[str], tokenizer: Tokenizer | None) -> list[str]:
    """Those that the tokenizer has no id for; its end token is T5's, whatever it is called."""
    return [token for token in tokens if _id(token, tokenizer) is None]


def reserve(tokens: Sequence[str], tokenizer: Tokenizer | None, vocabulary: int) -> Reserved:
    """Raises DataError where the model's vocabulary has no room for them beside the tokenizer's."""
    needed = missing(tokens, tokenizer)
    text_ids = vocabulary - len(needed)
    if text_ids < (1 if tokenizer is None else tokenizer.vocabulary_size):
        size = 1 if tokenizer is None else tokenizer.vocabulary_size
        raise DataError(
            f"model.vocabulary={vocabulary} has no room for {len(needed)} ids that the task needs ({needed[0]} ...) "
            f"beside {size} of the text. Use {size + len(needed)} or more, or auto"
        )
    top = {token: vocabulary - 1 - place for place, token in enumerate(needed)}
    return Reserved({token: top.get(token, _id(token, tokenizer) or 0) for token in tokens}, text_ids)


def _id(token: str, tokenizer: Tokenizer | None) -> int | None:
    if tokenizer is None:
        return None
    return tokenizer.end_id if token == T5_END else tokenizer.id_of(token)

"""The data of families that learn to restore a text: BERT's hidden words, T5's spans; and the ids that they need."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hanbit.config.recipe import Recipe
from hanbit.data.masked import Masked, open_masked
from hanbit.data.numbered import Numbered
from hanbit.data.order import Seed
from hanbit.data.reserved import BERT_TOKENS, Reserved, missing, reserve, sentinels, t5_tokens
from hanbit.data.samples import Part, open_samples
from hanbit.data.spans import Lengths, Spans, lengths_for
from hanbit.parallel.grid import Grid
from hanbit.tokenizers.load import load as load_tokenizer
from hanbit.tokenizers.tokenizer import Tokenizer
from hanbit.train.setup import known

Open = Callable[[str, Seed, Part, float | str], Numbered]  # path, seed, part, split


def reserved_tokens(recipe: Recipe) -> tuple[str, ...]:
    """What the family's task writes into the text; nothing for models of the next token."""
    if recipe.model.family == "bert":
        return BERT_TOKENS
    return t5_tokens(lengths_for(recipe.batch.sequence_length).spans) if recipe.model.family == "t5" else ()


def vocabulary_with_reserved(recipe: Recipe, tokenizer: Tokenizer) -> int:
    """Rows that the embedding needs: the tokenizer's, and one for every id of the task that it has not."""
    return tokenizer.vocabulary_size + len(missing(reserved_tokens(recipe), tokenizer))


def added_ids(recipe: Recipe, tokenizer_folder: Path | None) -> dict[str, int]:
    """Tokens of the task that the tokenizer has not, with the ids at which the model learnt them."""
    tokenizer = None if tokenizer_folder is None else load_tokenizer(tokenizer_folder)
    tokens = reserved_tokens(recipe)
    lacking = missing(tokens, tokenizer)
    ids = reserve(tokens, tokenizer, known(recipe.model.vocabulary)).ids if lacking else {}
    return {token: ids[token] for token in lacking}


def corrupted(recipe: Recipe, grid: Grid, tokenizer_folder: Path | None) -> Open:
    """What opens one part of one source; rank 0 compares it with its hashes, once. Raises DataError."""
    tokenizer = None if tokenizer_folder is None else load_tokenizer(tokenizer_folder)
    reserved = reserve(reserved_tokens(recipe), tokenizer, known(recipe.model.vocabulary))
    verified = set()

    def open_one(path: str, seed: Seed, part: Part, split: float | str) -> Numbered:
        verify = recipe.data.verify and grid.rank == 0 and path not in verified
        verified.add(path)
        return _open(recipe, reserved, path, part=part, split=split, verify=verify)

    return open_one


def _open(recipe: Recipe, reserved: Reserved, path: str, **options: Any) -> Masked | Spans:
    """One part of a token file; rank 0 compares it with its hashes (`verify`)."""
    length, seed, model = recipe.batch.sequence_length, recipe.training.seed, recipe.model
    if model.family == "bert":
        return open_masked(path, length, reserved, seed=seed, has_order=model.sentence_order, **options)
    assert model.family == "t5"
    lengths: Lengths = lengths_for(length)
    rows = open_samples(path, lengths.text, seed=seed, **options)
    rows.check_vocabulary(reserved.text_ids)
    ids = reserved.ids
    spans = [ids[token] for token in sentinels(lengths.spans)]
    return Spans(rows, lengths, spans, end=ids["</s>"], start=model.start_token, seed=seed)

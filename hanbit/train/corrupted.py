"""The data of families that learn to restore a text: BERT's hidden words, T5's spans; and the ids that they need."""

from pathlib import Path
from typing import Any

from hanbit.common.errors import DataError
from hanbit.config.recipe import Recipe
from hanbit.data.masked import Masked, open_masked
from hanbit.data.reserved import BERT_TOKENS, Reserved, missing, reserve, sentinels, t5_tokens
from hanbit.data.samples import open_samples
from hanbit.data.spans import Lengths, Spans, lengths_for
from hanbit.parallel.agree import together
from hanbit.parallel.grid import Grid
from hanbit.tokenizers.load import load as load_tokenizer
from hanbit.tokenizers.tokenizer import Tokenizer
from hanbit.train.setup import known


def reserved_tokens(recipe: Recipe) -> tuple[str, ...]:
    """What the family's task writes into the text; nothing for models of the next token."""
    if recipe.model.family == "bert":
        return BERT_TOKENS
    return t5_tokens(lengths_for(recipe.batch.sequence_length).spans) if recipe.model.family == "t5" else ()


def vocabulary_with_reserved(recipe: Recipe, tokenizer: Tokenizer) -> int:
    """Rows that the embedding needs: the tokenizer's, and one for every id of the task that it has not."""
    return tokenizer.vocabulary_size + len(missing(reserved_tokens(recipe), tokenizer))


def open_corrupted(recipe: Recipe, grid: Grid, tokenizer_folder: Path | None) -> tuple[Any, Any]:
    """(train, validation or None); raises DataError on every process alike."""
    with together(DataError):
        tokenizer = None if tokenizer_folder is None else load_tokenizer(tokenizer_folder)
        reserved = reserve(reserved_tokens(recipe), tokenizer, known(recipe.model.vocabulary))
        data, verify = recipe.data, recipe.data.verify and grid.rank == 0
        split = 0.0 if data.validation else data.split
        train = _open(recipe, reserved, data.train, split=split, verify=verify)
        validation = None
        if data.validation:
            validation = _open(recipe, reserved, data.validation, verify=verify)
        elif data.split:
            validation = _open(recipe, reserved, data.train, part="validation", split=split, verify=False)
    return train, validation


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

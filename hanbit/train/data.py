"""What a run reads: token files, or conversations to tune on, each with its part for validation."""

import logging
from pathlib import Path
from typing import Any

from hanbit.common.errors import DataError
from hanbit.config.recipe import Recipe
from hanbit.data.answers import Answers, open_answers
from hanbit.data.samples import Samples, open_samples, tokenizer_beside
from hanbit.parallel.agree import together
from hanbit.parallel.grid import Grid
from hanbit.tokenizers.load import load as load_tokenizer
from hanbit.train.corrupted import open_corrupted, reserved_tokens
from hanbit.train.setup import Numbered, known

logger = logging.getLogger(__name__)


def open_data(recipe: Recipe, grid: Grid) -> tuple[Numbered, Numbered | None]:
    """(train, validation); raises DataError on every process alike."""
    train: Numbered
    validation: Numbered | None
    if recipe.tuning:
        train, validation = _conversations(recipe)
    elif reserved_tokens(recipe):
        train, validation = open_corrupted(recipe, grid, tokenizer_folder(recipe))
    else:
        train, validation = _token_files(recipe, grid)
    if validation is not None and len(validation) < recipe.batch.global_batch and grid.rank == 0:
        logger.warning(
            "no validation: its part has %d sequence(s), less than batch.global_batch=%d. Raise data.split or name "
            "data.validation", len(validation), recipe.batch.global_batch,
        )  # fmt: skip
    return train, validation


def tokens_per_step(samples: Numbered, global_batch: int) -> int:
    """Targets of one optimizer step; of answers, whose number differs from step to step, the mean."""
    return max(1, samples.count_targets(0, len(samples)) * global_batch // len(samples))


def tokenizer_folder(recipe: Recipe) -> Path | None:
    """The tokenizer of the data: the one the recipe names, the base model's, or the one beside the token files."""
    if recipe.tokenizer.path is not None:
        return Path(recipe.tokenizer.path)
    if recipe.tuning is not None:
        return Path(recipe.tuning.model)
    return tokenizer_beside(recipe.data.train)


def _conversations(recipe: Recipe) -> tuple[Answers, Answers | None]:
    """Every process reads all of them: they are few, and each rank can then count the answers of a global batch."""
    data, folder = recipe.data, tokenizer_folder(recipe)
    assert folder is not None
    tokenizer = load_tokenizer(folder)
    options: dict[str, Any] = {"seed": recipe.training.seed, "too_long": data.too_long}
    length = recipe.batch.sequence_length
    with together(DataError):
        split = 0.0 if data.validation else data.split
        train = open_answers(data.train, tokenizer, length, split=split, **options)
        validation = None
        if data.validation:
            validation = open_answers(data.validation, tokenizer, length, **{**options, "seed": None})
        elif split:
            validation = open_answers(data.train, tokenizer, length, part="validation", split=split, **options)
    return train, validation


def _token_files(recipe: Recipe, grid: Grid) -> tuple[Samples, Samples | None]:
    """Rank 0 compares the content with its hashes; all check what costs little."""
    data, length, seed = recipe.data, recipe.batch.sequence_length, recipe.training.seed
    verify = data.verify and grid.rank == 0
    with together(DataError):
        split = 0.0 if data.validation else data.split
        train = open_samples(data.train, length, seed=seed, split=split, verify=verify)
        validation = None
        if data.validation:
            validation = open_samples(data.validation, length, seed=seed, verify=verify)
        elif data.split:
            validation = open_samples(data.train, length, seed=seed, part="validation", split=split, verify=False)
        for samples in (train, validation):
            if samples is not None:
                samples.check_vocabulary(known(recipe.model.vocabulary))
    return train, validation

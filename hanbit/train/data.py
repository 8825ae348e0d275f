"""What a run reads: token files or conversations, one source or a blend, and the sets it is validated on."""

import itertools
import logging
from pathlib import Path
from typing import Any

from hanbit.common.errors import DataError
from hanbit.common.manifest import sha256_of
from hanbit.config.data import Source, sources
from hanbit.config.ramp_up import samples_after
from hanbit.config.recipe import Recipe
from hanbit.config.resolve import passes_over
from hanbit.data.answers import end_of_answers, open_answers
from hanbit.data.blend import Blend
from hanbit.data.numbered import Numbered
from hanbit.data.order import Seed
from hanbit.data.samples import Part, open_samples, tokenizer_beside
from hanbit.parallel.agree import together
from hanbit.parallel.grid import Grid
from hanbit.tokenizers.load import TOKENIZER_FILE
from hanbit.tokenizers.load import load as load_tokenizer
from hanbit.train.corrupted import Open, corrupted, reserved_tokens
from hanbit.train.setup import is_conversations, known

logger = logging.getLogger(__name__)


def open_data(recipe: Recipe, grid: Grid) -> tuple[Numbered, dict[str, Numbered]]:
    """(train, validation sets by name; "" is the one without); raises DataError on every process alike."""
    data, seed = recipe.data, recipe.training.seed
    named = data.validation_sets
    with together(DataError):
        open_one = _opener(recipe, grid)
        split = 0.0 if named else data.split
        train = _opened(sources(data.train), open_one, seed, "train", split)
        validation = {name: _opened(blend, open_one, seed, "train", 0.0) for name, blend in named.items()}
        if not named and has_validation(split):
            validation[""] = _opened(sources(data.train), open_one, seed, "validation", split)
    for name, samples in validation.items():
        if len(samples) < recipe.batch.global_batch and grid.rank == 0:
            logger.warning(
                "no validation%s: its part has %d sequence(s), less than batch.global_batch=%d. Raise data.split or "
                "name data.validation", f" on {name}" if name else "", len(samples), recipe.batch.global_batch,
            )  # fmt: skip
    return train, validation


def has_validation(split: float | str) -> bool:
    """Does the split leave a part for validation?"""
    return split > 0 if isinstance(split, float) else "," in split


def told(recipe: Recipe, samples: Numbered) -> list[str]:
    """How often the run sees its data, of each source a line."""
    total = samples_after(recipe.batch, known(recipe.training.steps))
    if not isinstance(samples, Blend):
        return [passes_over(recipe, len(samples))]
    return [
        f"{one.name}: {one.share:.4%} of the samples = {one.samples}, {one.passes:.2g} passes over {one.epoch}"
        for one in samples.drawn(total)
    ]


def tokens_per_step(samples: Numbered, global_batch: int) -> int:
    """Targets of one optimizer step; of answers and packed documents, whose number differs, the mean of an epoch."""
    return max(1, samples.count_targets(0, len(samples)) * global_batch // len(samples))


def tokenizer_folder(recipe: Recipe) -> Path | None:
    """The tokenizer of the data: the one the recipe names, the base model's, or the one beside the token files."""
    if recipe.tokenizer.path is not None:
        return Path(recipe.tokenizer.path)
    if is_conversations(recipe):
        start = recipe.training.initial_model if recipe.tuning is None else recipe.tuning.model
        return None if start is None else Path(start)
    beside = [tokenizer_beside(source.path) for source in sources(recipe.data.train)]
    return next((folder for folder in beside if folder is not None), None)


def answer_end(recipe: Recipe) -> int | None:
    """The token that ends an answer, where the run learns to give some."""
    folder = tokenizer_folder(recipe) if is_conversations(recipe) else None
    return None if folder is None else end_of_answers(load_tokenizer(folder))


def _opened(blend: list[Source], open_one: Open, seed: int, part: Part, split: float | str) -> Numbered:
    """One source is itself; of several each has an order of its own."""
    if len(blend) == 1:
        return open_one(blend[0].path, seed, part, split)
    opened = {
        str(source.name): open_one(source.path, f"{seed} {place}", part, split) for place, source in enumerate(blend)
    }
    weights = [source.weight for source in blend if source.weight is not None]
    return Blend(opened, weights or None)


def _opener(recipe: Recipe, grid: Grid) -> Open:
    if is_conversations(recipe):
        return _conversations(recipe)
    return corrupted(recipe, grid, tokenizer_folder(recipe)) if reserved_tokens(recipe) else _token_files(recipe, grid)


def _conversations(recipe: Recipe) -> Open:
    """Every process reads all of them: they are few, and each rank can then count the answers of a global batch."""
    folder = tokenizer_folder(recipe)
    if folder is None:
        raise DataError(
            "conversations need a tokenizer with a chat template: name tokenizer.path, or training.initial_model"
        )
    tokenizer, length, data = load_tokenizer(folder), recipe.batch.sequence_length, recipe.data
    options: dict[str, Any] = {"too_long": data.too_long, "packing": data.packing}

    def open_one(path: str, seed: Seed, part: Part, split: float | str) -> Numbered:
        answers = open_answers(path, tokenizer, length, seed=seed, part=part, split=split, **options)
        answers.check_vocabulary(known(recipe.model.vocabulary))
        return answers

    return open_one


def _token_files(recipe: Recipe, grid: Grid) -> Open:
    """Rank 0 compares the content with its hashes, once; all check what costs little."""
    _check_one_tokenizer(recipe)
    length, data, verified = recipe.batch.sequence_length, recipe.data, set()

    def open_one(path: str, seed: Seed, part: Part, split: float | str) -> Numbered:
        verify = data.verify and grid.rank == 0 and path not in verified
        verified.add(path)
        samples = open_samples(path, length, seed=seed, part=part, split=split, packing=data.packing, verify=verify)
        samples.check_vocabulary(known(recipe.model.vocabulary))
        return samples

    return open_one


def _check_one_tokenizer(recipe: Recipe) -> None:
    """Sources whose tokens mean different things must not be blended."""
    first: tuple[Path, str] | None = None
    for source in itertools.chain(sources(recipe.data.train), *recipe.data.validation_sets.values()):
        folder = tokenizer_beside(source.path)
        if folder is None or not (folder / TOKENIZER_FILE).is_file():
            continue
        found = sha256_of(folder / TOKENIZER_FILE)
        first = first or (folder, found)
        if found != first[1]:
            raise DataError(
                f"{first[0]} and {folder} are different tokenizers, so their ids mean different tokens. Prepare one of "
                f"the sources again with `--tokenizer {first[0]}`"
            )

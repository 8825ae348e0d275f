"""What a recipe becomes before anything is started: resolved with what its data says, and found to be possible."""

from hanbit.common.capability import Processor
from hanbit.common.errors import ConfigError, ModelError
from hanbit.config.load import Loaded
from hanbit.config.recipe import Recipe
from hanbit.config.resolve import Resolved, resolve
from hanbit.models.registry import family_of
from hanbit.parallel.fp8 import check_fp8
from hanbit.tokenizers.load import load as load_tokenizer
from hanbit.train.corrupted import vocabulary_with_reserved
from hanbit.train.data import tokenizer_folder
from hanbit.train.trackers import check_trackers


def resolution_of(loaded: Loaded, world_size: int, device: str | None, processor: Processor | None = None) -> Resolved:
    """Every `auto` filled, the vocabulary's from the tokenizer.

    device, processor: what this process trains on; None leaves `training.device` and `training.precision` open.

    Raises ConfigError, DataError.
    """
    recipe = loaded.recipe
    check_trackers(recipe)
    folder = tokenizer_folder(recipe)
    vocabulary = None if folder is None else vocabulary_with_reserved(recipe, load_tokenizer(folder))
    resolved = resolve(
        recipe, world_size=world_size, vocabulary=vocabulary, device=device, processor=processor, origins=loaded.origins
    )
    if processor is not None and resolved.recipe.training.precision == "fp8":
        check_fp8()
    _check_export(resolved.recipe)
    return resolved


def _check_export(recipe: Recipe) -> None:
    """Can the model be said in Hugging Face's words? Better asked before the first step than after the last."""
    if recipe.tuning is not None or not recipe.checkpoint.export:
        return  # an adapter's base is such a folder already
    try:
        family_of(recipe.model).huggingface.config_to(recipe.model)
    except ModelError as problem:
        raise ConfigError(
            f"the trained model could not be exported: {problem}. Change these keys of model, or keep checkpoints only "
            "with checkpoint.export=false"
        ) from None

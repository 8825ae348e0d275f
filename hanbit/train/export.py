"""What a run that has come to its end leaves, a model's or an adapter's folder: made once, and again if not whole."""

import hashlib
import logging
from pathlib import Path

from hanbit.checkpoint.export import export_model
from hanbit.checkpoint.model_folder import KIND as MODEL
from hanbit.common.errors import ModelError
from hanbit.common.manifest import NAME, read_manifest, verify
from hanbit.common.run_folder import RunFolder
from hanbit.config.recipe import Recipe
from hanbit.config.write import to_yaml
from hanbit.formats.peft import KIND as ADAPTER
from hanbit.train.adapter import export_adapter
from hanbit.train.corrupted import added_ids
from hanbit.train.data import answer_end, tokenizer_folder

logger = logging.getLogger(__name__)


def export(recipe: Recipe, folder: RunFolder, checkpoint: Path) -> None:
    """Write what `checkpoint` holds for others to read, unless it is there from an earlier start, whole."""
    kind, target = (MODEL, folder.model) if recipe.tuning is None else (ADAPTER, folder.adapter)
    origin = origin_of(recipe, checkpoint)
    if _is_made(target, kind, origin):
        logger.info("%s %s, made by an earlier start", kind, target)
        return
    if recipe.tuning is None:
        tokens, added = tokenizer_folder(recipe), added_ids(recipe, tokenizer_folder(recipe))
        export_model(checkpoint, target, recipe.model, tokens, origin, answer_end(recipe), added)
    else:
        export_adapter(checkpoint, target, recipe, origin)
    logger.info("%s %s", kind, target)


def origin_of(recipe: Recipe, checkpoint: Path) -> str:
    """SHA-256 of all that an export depends on: the checkpoint, whose manifest has its files', and the recipe."""
    return hashlib.sha256((checkpoint / NAME).read_bytes() + to_yaml(recipe).encode()).hexdigest()


def _is_made(target: Path, kind: str, origin: str) -> bool:
    try:
        manifest = read_manifest(target, kind, ModelError)
        if manifest.get("origin") != origin:
            return False
        verify(target, manifest, ModelError)
    except ModelError:
        return False
    return True

"""What tuning needs of its base model's folder, and what it leaves: an adapter folder."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from hanbit.checkpoint.export import PREFIX
from hanbit.checkpoint.load import Reader
from hanbit.checkpoint.model_folder import read_config
from hanbit.checkpoint.model_weights import weight_files
from hanbit.common.manifest import NAME, sha256_of
from hanbit.config.recipe import Recipe
from hanbit.formats.peft import Adapter, write_adapter
from hanbit.tuning.lora import A, B, is_lora


def model_of(folder: str) -> dict[str, Any]:
    """The section `model` of a recipe, from the folder's config.json. Raises ModelError."""
    return read_config(folder).model_dump(mode="json")


@cache
def base_digest(folder: str) -> dict[str, str]:
    """SHA-256 of each weight file; from the manifest where there is one, which reading the weights has verified."""
    files = weight_files(Path(folder))
    manifest = Path(folder) / NAME
    if manifest.is_file():
        listed = json.loads(manifest.read_text(encoding="utf-8"))["files"]
        return {path.name: listed[path.name]["sha256"] for path in files}
    return {path.name: sha256_of(path) for path in files}


def export_adapter(checkpoint: Path, target: Path, recipe: Recipe, origin: str) -> None:
    """Write the trained matrices of `checkpoint` as peft has them, whatever layout trained them. origin: for
    hanbit.json, of what it was made."""
    tuning = recipe.tuning
    assert tuning is not None
    reader = Reader(checkpoint)
    names = [name.removeprefix(PREFIX) for name in reader.index if name.startswith(PREFIX) and is_lora(name)]
    layers = sorted({name.removesuffix(f".{A}").removesuffix(f".{B}") for name in names})
    matrices = {name: (reader.whole(f"{PREFIX}{name}.{A}"), reader.whole(f"{PREFIX}{name}.{B}")) for name in layers}
    adapter = Adapter(target.name, tuning.alpha / tuning.rank, matrices)
    facts = {"parents": [checkpoint.name, tuning.model], "origin": origin}
    write_adapter(target, adapter, recipe.model, tuning.model, facts)

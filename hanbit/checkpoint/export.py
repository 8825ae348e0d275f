"""From a checkpoint to a model folder that the ecosystem reads; one tensor at a time, by one process."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hanbit.checkpoint.load import Reader
from hanbit.checkpoint.model_folder import save_model
from hanbit.checkpoint.model_json import read_json
from hanbit.common.atomic import write_json
from hanbit.config.model import ModelConfig
from hanbit.tokenizers.add import add_tokens

PREFIX = "parameter/"


def export_model(
    checkpoint: Path,
    target: Path,
    config: ModelConfig,
    tokenizer_folder: Path | None,
    origin: str,
    answer_end: int | None = None,
    added: Mapping[str, int] | None = None,
) -> None:
    """Write the parameters of `checkpoint` to `target` in Hugging Face's layout, whatever layout trained them.

    origin: for hanbit.json, of what it was made. answer_end: the token that ends an answer, beside the one that ends a
    document. added: ids of tokens that the task has and the tokenizer has not.
    """
    reader = Reader(checkpoint)
    names = [name.removeprefix(PREFIX) for name in reader.index if name.startswith(PREFIX)]
    tensors = {name: reader.whole(PREFIX + name) for name in names}

    def finish(folder: Path) -> dict[str, Any]:
        _end_with(folder / "generation_config.json", answer_end)
        if added and tokenizer_folder is not None:
            add_tokens(folder, added)
        return {}

    facts = {"parents": [checkpoint.name], "origin": origin}
    save_model(target, config, tensors, tokenizer_folder, facts, finish)


def _end_with(path: Path, id: int | None) -> None:
    """Who generates stops at it, too."""
    values = read_json(path)
    ends = [end for end in (values["eos_token_id"], id) if end is not None]
    if id is not None and ends != [id, id]:
        write_json(path, {**values, "eos_token_id": ends})

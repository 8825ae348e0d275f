"""From a checkpoint to a model folder that the ecosystem reads; one tensor at a time, by one process."""

from pathlib import Path

from hanbit.checkpoint.load import Reader
from hanbit.checkpoint.model_folder import save_model
from hanbit.config.model import ModelConfig

PREFIX = "parameter/"


def export_model(checkpoint: Path, target: Path, config: ModelConfig, tokenizer_folder: Path | None) -> None:
    """Write the parameters of `checkpoint` to `target` in Hugging Face's layout, whatever layout trained them."""
    reader = Reader(checkpoint)
    names = [name.removeprefix(PREFIX) for name in reader.index if name.startswith(PREFIX)]
    tensors = {name: reader.whole(PREFIX + name) for name in names}
    save_model(target, config, tensors, tokenizer_folder, facts={"parents": [checkpoint.name]})

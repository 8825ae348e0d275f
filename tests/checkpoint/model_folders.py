"""Small model folders to spoil, as they would come from elsewhere: without a hanbit.json."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from hanbit.checkpoint.model_folder import save_model
from hanbit.checkpoint.model_weights import shapes_of
from hanbit.config.model import GPTConfig, LlamaConfig, ModelConfig
from hanbit.models.initial import initial_value

LLAMA = LlamaConfig(
    family="llama", layers=2, hidden=16, heads=4, key_value_heads=2, head_dim=4, inner=24, vocabulary=31, context=32
)
GPT = GPTConfig(family="gpt", layers=2, hidden=16, heads=4, inner=24, vocabulary=31, context=32)


def numbers(config: ModelConfig) -> dict[str, torch.Tensor]:
    return {name: initial_value(config, name, shape, seed=1) for name, shape in shapes_of(config).items()}


def foreign_folder(folder: Path, config: ModelConfig = LLAMA) -> Path:
    save_model(folder, config, numbers(config), None, facts={})
    (folder / "hanbit.json").unlink()
    return folder


def change_config(folder: Path, changes: dict[str, Any], without: tuple[str, ...] = ()) -> None:
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if key not in without}))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)

"""The model of a folder, ready for an engine: its configuration read, its weights as they are to be computed with."""

from pathlib import Path

from hanbit.checkpoint.model_folder import load_model, read_config
from hanbit.common.errors import GenerationError
from hanbit.config.model import DecoderConfig, ModelConfig, T5Config
from hanbit.engine.as_stored import are_wanted, can_stay, load_as_stored
from hanbit.engine.fuse import fuse
from hanbit.engine.opening import dtype_of
from hanbit.models.layers.decoder import Decoder


def speaking_config(folder: Path) -> ModelConfig:
    config = read_config(folder)
    if not isinstance(config, DecoderConfig | T5Config):
        raise GenerationError(
            f"{folder} is a {config.family} model, which hanbit trains and exports and does not generate with. "
            "Embeddings of a bert are made by hanbit.Embedder and /v1/embeddings"
        )
    return config


def loaded(folder: Path, dtype: str, device: str, quantization: str) -> Decoder:
    """Fused. `dtype`, `device`, `quantization` as LLM has them, device resolved."""
    numbers, with_blocks = dtype_of(dtype, device), are_wanted(quantization, folder, dtype, device)
    if with_blocks or can_stay(dtype, device):
        return fuse(load_as_stored(folder, with_blocks, must_have=quantization == "blocks"))
    return fuse(load_model(folder, numbers, device))

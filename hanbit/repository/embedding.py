"""The configuration of a model that turns texts into vectors: `text_input` in, `embedding` out, a row a text."""

from pathlib import Path

from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig

from hanbit.common.errors import RepositoryError
from hanbit.common.json_object import read_object
from hanbit.repository.language import Field, config_of

TEXTS = Field("text_input", DataType.TYPE_STRING, (-1,))
_EMBEDDERS = ("bert",)  # model types of Hugging Face's config.json
_MOST_BYTES = 50_000_000


def width_of(folder: Path) -> int | None:
    """Numbers of a vector of the model in `folder`; None where it makes none. Raises RepositoryError."""
    config = read_object(folder / "config.json", _MOST_BYTES, RepositoryError, f"{folder} is no model folder")
    if config.get("model_type") not in _EMBEDDERS:
        return None
    width = config.get("hidden_size", 768)  # transformers' own default
    if type(width) is not int or width < 1:
        raise RepositoryError(f"{folder / 'config.json'}: hidden_size={width!r:.80} must be a whole number from 1")
    return width


def embed_config(name: str, folder: Path, width: int) -> ModelConfig:
    vectors = Field("embedding", DataType.TYPE_FP32, (-1, width))
    return config_of(name, "hanbit_embed", (TEXTS,), (vectors,), {"model_folder": str(folder)})

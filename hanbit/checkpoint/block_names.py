"""Which tensors of a model may be in quantised blocks, beside the float ones of its folder (formats/gguf/blocks.py)."""

import re
from collections.abc import Mapping

from hanbit.config.model import ModelConfig
from hanbit.models.registry import family_of

_MATRIX = re.compile(
    r"(embedding|output|layers\.\d+\.(attention\.(query|key|value|output)|mlp\.(gate|up|down)))\.weight"
)


def matrix_names(shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Ours, of the matrices that inputs are multiplied with: not positions, not routers, not experts in a stack."""
    return [name for name, shape in shapes.items() if len(shape) == 2 and _MATRIX.fullmatch(name)]


def names_in_blocks(config: ModelConfig, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """Hugging Face's name -> ours, of the matrices that lie in a file as they are: not turned, not parts of another."""
    source_of = family_of(config).huggingface.source_of
    sources = {name: source_of(name, config) for name in matrix_names(shapes)}
    return {
        source.name: name
        for name, source in sources.items()
        if source.shape_in_file(shapes[name]) == shapes[name] and not source.is_transposed
    }

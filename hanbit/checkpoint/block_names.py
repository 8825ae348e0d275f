"""Which tensors of a model may be in quantised blocks, beside the float ones of its folder (formats/gguf/blocks.py).

A row is a whole number of blocks. So where a file has several of our matrices in one, rows of one after rows of
another or head by head, its blocks are ours, too: taking rows apart and putting them together rounds nothing.
"""

import re
from collections.abc import Mapping

import torch

from hanbit.config.model import ModelConfig
from hanbit.formats.gguf.blocks import Blocks
from hanbit.models.huggingface import Source
from hanbit.models.registry import family_of

_MATRIX = re.compile(
    r"(embedding|output|layers\.\d+\.(attention\.(query|key|value|output)|mlp\.(gate|up|down)))\.weight"
)


def matrix_names(shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Ours, of the matrices that inputs are multiplied with: not positions, not routers, not experts in a stack."""
    return [name for name, shape in shapes.items() if len(shape) == 2 and _MATRIX.fullmatch(name)]


def places_in_blocks(config: ModelConfig, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, dict[str, Source]]:
    """Hugging Face's name -> ours, all that lie in it, with the rows that each has; not of matrices that are turned."""
    source_of = family_of(config).huggingface.source_of
    found: dict[str, dict[str, Source]] = {}
    for name in matrix_names(shapes):
        source = source_of(name, config)
        if not source.is_transposed:
            found.setdefault(source.name, {})[name] = source
    return found


def part_of(whole: Blocks, source: Source) -> Blocks:
    """The rows that are ours."""
    data = source.read(whole.data).contiguous()
    return Blocks(whole.type, (len(data), *whole.shape[1:]), data)


def whole_of(parts: Mapping[str, Blocks], places: Mapping[str, Source]) -> Blocks:
    """Ours, by our names, as the one matrix that they are in a file; all are of one type."""
    whole = None
    for name, source in places.items():
        one = parts[name]
        if source.parts == 1:
            return one
        if whole is None:
            rows = source.all_rows(len(one.data))
            whole = Blocks(one.type, (rows, *one.shape[1:]), torch.empty(rows, one.data.shape[1], dtype=torch.uint8))
        assert whole.type == one.type
        place = source.rows_of(whole.data, len(one.data))
        place.copy_(one.data.view_as(place))
    assert whole is not None
    return whole

"""Weight files written tensor by tensor: the library's own bytes, and the digests of what lies on the disk."""

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hanbit.checkpoint.weight_file import WeightFiles

SHAPES = {"b.weight": (70, 30), "a": (), "b.10.weight": (3,), "b.2.weight": (1100, 1000), "글": (2, 3, 4)}


def tensors(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in SHAPES.items()}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_file_is_the_librarys_byte_by_byte_in_whatever_order_it_was_written(
    tmp_path: Path, dtype: torch.dtype, seed: int
) -> None:
    items = list(tensors(dtype).items())
    save_file(dict(items), tmp_path / "theirs", metadata={"format": "pt"})
    random.Random(seed).shuffle(items)
    with WeightFiles(tmp_path) as files:
        for name in ("one", "two"):
            files.write(name, SHAPES, dtype, iter(items))
        digests = files.digests()
    theirs = (tmp_path / "theirs").read_bytes()
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes() == theirs
    assert digests == dict.fromkeys(("one", "two"), hashlib.sha256(theirs).hexdigest())


def test_tensors_that_cannot_be_made_end_the_writing_with_their_own_error(tmp_path: Path) -> None:
    def broken() -> Iterator[tuple[str, torch.Tensor]]:
        yield "b.2.weight", tensors(torch.float32)["b.2.weight"]
        raise ValueError("no such number")

    with pytest.raises(ValueError, match="no such number"), WeightFiles(tmp_path) as files:
        files.write("one", SHAPES, torch.float32, broken())

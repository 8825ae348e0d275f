"""A model whose matrices stay as its folder has them, on a CPU, for the native kernels: in the blocks they were
quantised to, which `hanbit convert` left there (--keep-blocks, --quantize; kernels/blocks.py), or in float16, bfloat16.

Other tensors (norms, biases, experts), and blocks of a type the kernels do not know, become float32, and everything is
computed in it. So matrices of 16 bits give the numbers that they would give as float32, out of half of the memory.
"""

import logging
from pathlib import Path

import torch
from torch import nn

from hanbit.checkpoint.block_names import matrix_names, part_of, places_in_blocks
from hanbit.checkpoint.model_folder import is_packed, read_tensors
from hanbit.checkpoint.model_weights import FolderTensors, empty_model
from hanbit.common.errors import FormatError, GenerationError
from hanbit.engine.native import FLOAT_KINDS, BlockLinear, Matrix
from hanbit.formats.gguf.blocks import FILE, Blocks, read_blocks
from hanbit.kernels.blocks import kind_of, pack
from hanbit.kernels.library import native, why_not
from hanbit.models.huggingface import Source
from hanbit.models.layers.decoder import Decoder

log = logging.getLogger(__name__)

CHOICES = ("auto", "none", "blocks")
Places = dict[str, dict[str, Source]]  # of block_names.py


def are_wanted(quantization: str, folder: Path, dtype: str, device: str) -> bool:
    """Is the model of `folder` to be computed with its blocks? `quantization` is one of CHOICES: auto is yes where they
    are there and can be used. Raises GenerationError, FormatError where "blocks" cannot be had."""
    if quantization not in CHOICES:
        raise GenerationError(f"quantization={quantization!r:.80} must be {', '.join(CHOICES)}")
    has_blocks, is_usable = (
        (folder / FILE).is_file() or is_packed(folder),
        device == "cpu" and dtype in ("auto", "float32"),
    )
    if quantization == "none" or (quantization == "auto" and not (has_blocks and dtype == "auto" and device == "cpu")):
        return False
    if not has_blocks:
        raise FormatError(
            f"quantization=blocks: {folder} has no {FILE}. Make it with `hanbit convert SOURCE.gguf {folder} "
            "--keep-blocks`, or of plain numbers with --quantize int4, or leave quantization at auto"
        )
    if not is_usable:
        raise GenerationError(
            f"quantization=blocks computes in float32 on a CPU; dtype={dtype!r:.40} on {device} does not. Leave "
            "dtype at auto and give device cpu, or quantization none"
        )
    if native() is None:
        log.warning("%s: quantised weights become float32, for native kernels are %s", folder, why_not())
        return False
    return True


def can_stay(dtype: str, device: str) -> bool:
    """May matrices stay as a folder has them? Else they become of one dtype."""
    return dtype == "auto" and device == "cpu" and native() is not None


def load_as_stored(folder: Path, with_blocks: bool, must_have: bool = False) -> Decoder:
    """The model of a folder for `fuse`, in evaluation mode: BlockLinear wherever it has blocks, which are wanted, or 16
    bits, the embedding too.

    Raises ModelError, FormatError, before memory is taken where it can: on a folder that is not whole, on blocks of no
    tensor of this model or of another shape, on scales that are no numbers; if it `must_have` blocks, on a packed
    folder none of whose matrices can be in them.
    """
    tensors = read_tensors(folder)
    blocks = _blocks_of(folder, tensors) if with_blocks else {}
    if must_have and not blocks:
        raise FormatError(
            f"quantization=blocks: {folder} is packed, and nothing of it can be in blocks. {tensors.why_no_blocks()}. "
            "Leave quantization at auto, which computes in float32 then"
        )
    places = places_in_blocks(tensors.config, tensors.shapes)
    _check(folder, blocks, places, tensors.shapes)
    model: Decoder = empty_model(tensors.config)
    for stored, one in blocks.items():
        if kind_of(one.type) is None:
            log.warning("%s: %s is %s, which becomes float32", folder, stored, one.type)
            continue
        for name, source in places[stored].items():
            _put(model, name, _matrix(folder, stored, part_of(one, source)), one.shape[1])
    _put_halves(model, tensors)
    if isinstance(model.embedding, BlockLinear) and tensors.config.tied:
        _put(model, "output.weight", model.embedding.matrix, model.embedding.in_features)
    for name, _ in list(model.named_parameters()):
        numbers = tensors[name].to(torch.float32, copy=True)
        tensors.require_finite(name, numbers)
        _fill(model, name, numbers)
    if isinstance(model.embedding, nn.Embedding):
        model.tie()
    return model.eval().requires_grad_(False)


def _blocks_of(folder: Path, tensors: FolderTensors) -> dict[str, Blocks]:
    return read_blocks(folder) if (folder / FILE).is_file() else tensors.blocks()


def _put_halves(model: Decoder, tensors: FolderTensors) -> None:
    """The memory is the file's, mapped, until `fuse` copies it."""
    left = {name for name, _ in model.named_parameters()}
    for name in matrix_names(tensors.shapes):
        if name in left and (numbers := tensors[name]).dtype in (torch.float16, torch.bfloat16):
            tensors.require_finite(name, numbers)
            matrix = Matrix(FLOAT_KINDS[numbers.dtype], len(numbers), numbers.contiguous())
            _put(model, name, matrix, numbers.shape[1])


def _check(folder: Path, blocks: dict[str, Blocks], places: Places, shapes: dict[str, tuple[int, ...]]) -> None:
    for stored, one in blocks.items():
        if stored not in places:
            raise FormatError(f"{folder / FILE} has blocks of {stored!r:.200}, which is no matrix of this model")
        name, source = next(iter(places[stored].items()))
        expected = source.shape_in_file(shapes[name])
        if one.shape != expected:
            raise FormatError(
                f"{folder / FILE}: {stored} has shape {list(one.shape)}, config.json asks for {list(expected)}. "
                "Convert the model again"
            )


def _matrix(folder: Path, stored: str, blocks: Blocks) -> Matrix:
    kind = kind_of(blocks.type)
    assert kind is not None
    try:
        return Matrix(kind, blocks.shape[0], torch.from_numpy(pack(kind, blocks.data.numpy())))
    except ValueError as problem:
        raise FormatError(
            f"{folder / FILE}: {stored}: {problem}. The file is damaged; convert the model again"
        ) from None


def _put(model: Decoder, name: str, matrix: Matrix, inputs: int) -> None:
    parent, child = _place(model, name.removesuffix(".weight"))
    replaced = getattr(parent, child)
    linear = BlockLinear(matrix, inputs)
    linear.bias = getattr(replaced, "bias", None)  # a parameter, filled with the others
    setattr(parent, child, linear)


def _fill(model: nn.Module, name: str, numbers: torch.Tensor) -> None:
    parent, child = _place(model, name)
    setattr(parent, child, nn.Parameter(numbers, requires_grad=False))


def _place(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    parent, _, child = name.rpartition(".")
    return model.get_submodule(parent), child

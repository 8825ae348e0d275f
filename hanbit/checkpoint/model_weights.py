"""The tensors of a model folder: found, checked by name, shape and dtype before memory is taken, written in shards."""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from hanbit.checkpoint.block_names import places_in_blocks
from hanbit.checkpoint.model_json import read_json
from hanbit.checkpoint.rounded_blocks import NotInBlocks, as_rounded, blocks_of
from hanbit.checkpoint.weight_file import WeightFiles
from hanbit.common.atomic import write_json
from hanbit.common.errors import ModelError
from hanbit.config.model import ModelConfig
from hanbit.formats.gguf.blocks import Blocks
from hanbit.formats.packed.config import Packing
from hanbit.formats.packed.layouts import Layer, find_layers
from hanbit.formats.packed.unpack import unpack
from hanbit.models.huggingface import Source
from hanbit.models.registry import family_of

log = logging.getLogger(__name__)

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD_BYTES = 5_000_000_000
_READ = ("F32", "F16", "BF16", "F64")


class FolderTensors(Mapping[str, torch.Tensor]):
    """Every tensor by our name, read from its file when asked for; a tied output projection is not listed apart.

    What is returned is the file's memory, mapped: copy it, never write into it. Matrices in a `packing` are float32,
    made anew each time: of blocks where they can be, so that both are the same numbers.
    """

    def __init__(self, folder: Path, config: ModelConfig, packing: Packing | None = None) -> None:
        self.folder, self.config = folder, config
        self._adapter = family_of(config).huggingface
        self._files = {path: _open(path) for path in weight_files(folder)}
        self._places = _places(self._files, self._adapter.current_name)
        self._packed: dict[str, Layer] = {}
        if packing is not None:
            self._find_packed(packing)
        self.shapes = shapes_of(config)
        self._check()

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self.shapes:
            raise KeyError(name)
        parts = [source.read(self._tensor(source.name)) for source in self._sources(name)]
        return torch.stack(parts) if self._is_stack(name) else parts[0]

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def in_file(self, file_name: str) -> torch.Tensor:
        """A tensor by its Hugging Face name, as the file has it, or float32 of a packed matrix. Raises KeyError."""
        short = file_name.removeprefix(self._adapter.prefix)
        return self._tensor(file_name if file_name in self._places else short)

    def blocks(self) -> dict[str, Blocks]:
        """Of the packed matrices that can be, by Hugging Face names; which cannot, and why, the log says."""
        found: dict[str, Blocks] = {}
        others: dict[str, list[str]] = {}
        for stored, layer in self._layers_for_blocks():
            try:
                found[stored] = blocks_of(as_rounded(unpack(layer, self._part)))
            except NotInBlocks as why:
                others.setdefault(str(why), []).append(stored)
        for why_not, names in others.items():
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            log.warning("%s: %s%s: %s. Taken as float32", self.folder, names[0], more, why_not)
        return found

    def why_no_blocks(self) -> str | None:
        """What keeps every packed matrix from being in blocks; None if one of them can be."""
        reasons: dict[str, str] = {}
        for stored, layer in self._layers_for_blocks():
            try:
                as_rounded(unpack(layer, self._part))
                return None
            except NotInBlocks as why:
                reasons.setdefault(str(why), stored)
        found = "; ".join(f"{stored}: {why_not}" for why_not, stored in reasons.items())
        return found or f"none of its matrices is packed that family {self.config.family} has in blocks"

    def _layers_for_blocks(self) -> Iterator[tuple[str, Layer]]:
        """By Hugging Face names."""
        for stored, places in places_in_blocks(self.config, self.shapes).items():
            layer = self._packed.get(self._sources(next(iter(places)))[0].name)
            if layer is not None:
                yield stored, layer

    def require_finite(self, name: str, numbers: torch.Tensor) -> None:
        """`numbers`: what became of the tensor `name`. Raises ModelError where one is NaN or beyond its dtype."""
        if not all(bool(end.isfinite()) for end in numbers.aminmax()):  # NaN is handed on
            stored = self._sources(name)[0].name
            raise ModelError(
                f"{self.folder}: {stored} has numbers that are NaN or that {numbers.dtype} does not hold. It is "
                "damaged, copy it again; where only the dtype is too narrow, take float32"
            )

    def _find_packed(self, packing: Packing) -> None:
        """What makes a matrix is no tensor of the model; the matrix has its place instead."""
        try:
            self._packed = find_layers(packing, self._places, self._look, self._part)
        except ModelError as problem:
            raise ModelError(f"{self.folder}: {problem}") from None
        self._parts = {part: self._places.pop(part) for one in self._packed.values() for part in one.parts.values()}
        self._places |= {name: self._parts[next(iter(one.parts.values()))] for name, one in self._packed.items()}

    def _place_of(self, part: str) -> tuple[Path, str]:
        return self._places[part] if part in self._places else self._parts[part]

    def _look(self, part: str) -> tuple[tuple[int, ...], str]:
        path, stored = self._place_of(part)
        view = self._files[path].get_slice(stored)
        return tuple(view.get_shape()), view.get_dtype()

    def _part(self, part: str) -> torch.Tensor:
        path, stored = self._place_of(part)
        found: torch.Tensor = self._files[path].get_tensor(stored)
        return found

    def _tensor(self, file_name: str) -> torch.Tensor:
        if file_name in self._packed:
            one = unpack(self._packed[file_name], self._part)
            try:
                return as_rounded(one).numbers()
            except NotInBlocks:
                return one.numbers()
        path, stored = self._places[file_name]
        return self._files[path].get_tensor(stored)

    def _sources(self, name: str) -> list[Source]:
        """One, or those of a stack in its order. Some files leave the prefix out of every name."""
        found = self._adapter.source_of(name, self.config).each(self.shapes[name])
        return [self._without_prefix(source) for source in found]

    def _without_prefix(self, source: Source) -> Source:
        short = source.name.removeprefix(self._adapter.prefix)
        is_short = source.name not in self._places and short in self._places
        return replace(source, name=short) if is_short else source

    def _is_stack(self, name: str) -> bool:
        return self._adapter.source_of(name, self.config).is_stack

    def _check(self) -> None:
        """Missing, of another shape, left over: each would make another model than the file's."""
        used = set()
        for name, shape in self.shapes.items():
            own = shape[1:] if self._is_stack(name) else shape
            for source in self._sources(name):
                if source.name not in self._places:
                    place = f"{source.name} ({name})"
                    raise ModelError(f"{self.folder} has no tensor {place}: it is incomplete, copy it again")
                if source.is_transposed and source.name in self._packed:
                    raise ModelError(
                        f"{self.folder}: {source.name} is packed; family {self.config.family} has it turned"
                    )
                self._check_shape(source.name, source.shape_in_file(own))
                used.add(source.name)
        for name in sorted(set(self._places) - used):
            self._check_left_over(name)

    def _check_shape(self, file_name: str, expected: tuple[int, ...]) -> None:
        if file_name in self._packed:
            layer = self._packed[file_name]
            if (layer.rows, layer.columns) != expected:
                found = (layer.rows, layer.columns)
                raise ModelError(f"{self.folder}: {file_name} is packed {found}, config.json asks for {expected}")
            return
        path, name = self._places[file_name]
        view = self._files[path].get_slice(name)
        stored, dtype = tuple(view.get_shape()), view.get_dtype()
        if stored != expected:
            raise ModelError(f"{self.folder}: {file_name} has shape {stored}, config.json asks for {expected}")
        if dtype not in _READ:
            raise ModelError(f"{self.folder}: {file_name} is {dtype}, hanbit reads {', '.join(_READ)}")

    def _check_left_over(self, file_name: str) -> None:
        """Constants are harmless, and so are a copy, of a tied embedding above all, if it is one, and a packed matrix's
        bias of nothing but zeros, which GPTQ's packages write for matrices that have none."""
        if self._adapter.is_constant(file_name):
            return
        layer, _, part = file_name.rpartition(".")
        if part == "bias" and f"{layer}.weight" in self._packed and not self._tensor(file_name).any():
            return
        original = self._adapter.copies.get(file_name)
        if original in self._places and torch.equal(self._tensor(file_name), self._tensor(original)):
            return
        output = self._adapter.source_of("output.weight", self.config).name
        embedding = self._sources("embedding.weight")[0].name
        if not self.config.tied or file_name != output:
            raise ModelError(f"{self.folder} has a tensor {file_name[:200]} that {self.config.family} has no place for")
        self._check_shape(output, self.shapes["embedding.weight"])
        if not torch.equal(self._tensor(output), self._tensor(embedding)):
            raise ModelError(
                f"{self.folder}: tie_word_embeddings is true, yet {output} is not {embedding}. "
                "Set it to false in config.json if both were trained"
            )


def empty_model(config: ModelConfig) -> Any:
    """Names and shapes, no memory."""
    with torch.device("meta"):
        return family_of(config).build(config)


def shapes_of(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in empty_model(config).named_parameters()}


def weight_files(folder: Path) -> list[Path]:
    """Those of one model, in the folder itself; raises ModelError if there are none, or pickles only."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        return _shards(folder / INDEX)
    if any(any(folder.glob(pattern)) for pattern in ("*.bin", "*.pt", "*.pth")):
        raise ModelError(
            f"{folder} has pickled weights only, which hanbit does not read because they can run code. "
            "Save it as safetensors with transformers (save_pretrained) first"
        )
    raise ModelError(f"{folder} has neither {WEIGHTS} nor {INDEX}: its weights are missing, copy it again")


def _shards(index: Path) -> list[Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{index}: weight_map must be an object that names a file for every tensor")
    for name in weight_map.values():
        if not isinstance(name, str) or Path(name).name != name or "\\" in name or not name.endswith(".safetensors"):
            raise ModelError(f"{index} must name .safetensors files in its own folder, not {name!r:.200}")
    paths = [index.parent / name for name in sorted(set(weight_map.values()))]
    for path in paths:
        if not path.is_file():
            raise ModelError(f"{path} is missing, though {index.name} names it. Copy the folder again")
    return paths


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as problem:
        raise ModelError(f"{path} cannot be read: {problem}. It is truncated or damaged; copy it again") from None


def _places(files: dict[Path, Any], current_name: Callable[[str], str]) -> dict[str, tuple[Path, str]]:
    """Today's name of every tensor -> its file, and its name there."""
    places: dict[str, tuple[Path, str]] = {}
    for path, file in files.items():
        for stored in file.keys():  # noqa: SIM118, not a dict
            name = current_name(stored)
            if name in places:
                raise ModelError(f"{path} has {name[:200]}, and so has {places[name][0].name}: one of them is old")
            places[name] = (path, stored)
    return places


def write_weights(files: WeightFiles, config: ModelConfig, tensors: Mapping[str, torch.Tensor]) -> str:
    """Write `tensors`, whole, by our names, and read from the mapping one after another; returns their dtype's name.

    Raises ModelError on a name, shape or dtype that is not the model's, before anything is written where it can.
    """
    shapes = shapes_of(config)
    odd = sorted(set(shapes) ^ set(tensors))
    if odd:
        state = "missing" if odd[0] in shapes else "not one of this model's"
        raise ModelError(f"cannot save the model: tensor {odd[0]} is {state}")
    smallest = min(shapes, key=lambda name: torch.Size(shapes[name]).numel())  # a lazy mapping makes it for this alone
    dtype = tensors[smallest].dtype
    shards = _planned(config, shapes, dtype.itemsize)
    names = [WEIGHTS]
    if len(shards) > 1:
        names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
        places = {
            stored: file
            for file, shard in zip(names, shards, strict=True)
            for parts in shard
            for stored in _shapes_in_file(parts, shapes)
        }
        total = sum(torch.Size(shape).numel() for shape in shapes.values()) * dtype.itemsize
        write_json(files.folder / INDEX, {"metadata": {"total_size": total}, "weight_map": places})
    for file, shard in zip(names, shards, strict=True):
        stored_shapes = {name: shape for parts in shard for name, shape in _shapes_in_file(parts, shapes).items()}
        files.write(file, stored_shapes, dtype, _in_file(shard, tensors, shapes, dtype))
    return str(dtype).removeprefix("torch.")


Parts = list[tuple[str, Source]]  # our tensors of one of theirs, or of one stack of them


def _shapes_in_file(parts: Parts, shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """By the name in the file; of a stack, those of its tensors."""
    name, source = parts[0]
    own = shapes[name][1:] if source.is_stack else shapes[name]
    return {one.name: source.shape_in_file(own) for one in source.each(shapes[name])}


def _planned(config: ModelConfig, shapes: dict[str, tuple[int, ...]], item_bytes: int) -> list[list[Parts]]:
    """Which tensors go into which shard, in the order of their Hugging Face names there: as they lie in the file."""
    source_of = family_of(config).huggingface.source_of
    stored: dict[str, Parts] = {}
    for name in shapes:
        source = source_of(name, config)
        stored.setdefault(source.name, []).append((name, source))
    shards: list[dict[str, Parts]] = [{}]
    room_bytes = SHARD_BYTES
    for stored_name, parts in stored.items():
        size_bytes = sum(torch.Size(shapes[name]).numel() for name, _ in parts) * item_bytes
        if size_bytes > room_bytes and shards[-1]:
            shards.append({})
            room_bytes = SHARD_BYTES
        shards[-1][stored_name] = sorted(parts, key=lambda part: part[1].part)
        room_bytes -= size_bytes
    return [[parts for _, parts in sorted(shard.items())] for shard in shards]


def _in_file(
    shard: list[Parts], tensors: Mapping[str, torch.Tensor], shapes: dict[str, tuple[int, ...]], dtype: torch.dtype
) -> Iterator[tuple[str, torch.Tensor]]:
    """Name in the file, and the tensor as it lies there."""
    for parts in shard:
        joined = _joined(parts, tensors, shapes, dtype)
        stacked = joined.unbind() if parts[0][1].is_stack else [joined]
        yield from zip(_shapes_in_file(parts, shapes), stacked, strict=True)


def _joined(
    parts: Parts, tensors: Mapping[str, torch.Tensor], shapes: dict[str, tuple[int, ...]], dtype: torch.dtype
) -> torch.Tensor:
    """Every part's rows in their places, matrices turned back where the architecture has them so."""
    whole = None
    for name, source in parts:
        tensor = tensors[name].detach().cpu()
        if tuple(tensor.shape) != shapes[name] or tensor.dtype != dtype:
            given = f"{tuple(tensor.shape)} {tensor.dtype}"
            raise ModelError(f"cannot save the model: {name} is {given}, expected {shapes[name]} {dtype}")
        if source.parts == 1:
            whole = tensor
            continue
        if whole is None:
            whole = tensor.new_empty(source.all_rows(len(tensor)), *tensor.shape[1:])
        place = source.rows_of(whole, len(tensor))
        place.copy_(tensor.view_as(place))
    assert whole is not None
    return (whole.T if parts[0][1].is_transposed else whole).contiguous()

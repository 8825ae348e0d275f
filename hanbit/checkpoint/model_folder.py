"""Model folders in Hugging Face's layout: read with every tensor checked before memory is taken, written whole or not at all.

config.json  model.safetensors (or shards and an index)  generation_config.json  tokenizer files  README.md  hanbit.json
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from hanbit.checkpoint.model_card import model_card
from hanbit.common.atomic import fsync_path, write_json, write_text
from hanbit.common.errors import ModelError
from hanbit.common.manifest import write_manifest
from hanbit.config.model import ModelConfig
from hanbit.models.huggingface import Source
from hanbit.models.layers.decoder import Decoder
from hanbit.models.registry import adapter_of, family_of
from hanbit.tokenizers.load import load as load_tokenizer

KIND = "model"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD_BYTES = 5_000_000_000
_LARGEST_JSON_BYTES = 50_000_000
_LARGEST_NUMBER = 2**24  # of layers, widths, token ids: larger ones are a lie or a mistake


def read_config(folder: Path) -> ModelConfig:
    """The model's shape from `config.json`; raises ModelError on what is missing, absurd, or not built here."""
    config = _read_json(folder / "config.json")
    architectures = config.get("architectures") or [None]
    adapter = adapter_of(str(architectures[0]))
    for key, value in config.items():
        if isinstance(value, int) and not isinstance(value, bool) and key != "seed" and value > _LARGEST_NUMBER:
            raise ModelError(
                f"{folder / 'config.json'}: {key}={value} is beyond any model (largest: {_LARGEST_NUMBER})"
            )
    try:
        return adapter.config_from(config)
    except ModelError as problem:
        raise ModelError(f"{folder}: {problem}") from None
    except ValidationError as problem:
        first = problem.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ModelError(f"{folder / 'config.json'}: {place}={first['input']!r}: {first['msg']}") from None


def load_model(folder: Path | str, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Decoder:
    """The whole model of a folder, in evaluation mode, its numbers in `dtype` on `device`."""
    tensors = read_tensors(folder)
    model = _empty_model(tensors.config).to(dtype).to_empty(device=device)
    model.tie()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[name])
    return model.eval().requires_grad_(False)


def read_tensors(folder: Path | str) -> "FolderTensors":
    """Every tensor of the model by our name, read when asked for. Names and shapes are checked here, before that."""
    return FolderTensors(Path(folder), read_config(Path(folder)))


class FolderTensors(Mapping[str, torch.Tensor]):
    """A model folder's tensors; a tied output projection is not listed apart."""

    def __init__(self, folder: Path, config: ModelConfig) -> None:
        self.folder, self.config = folder, config
        self._files = {path: _open(path) for path in _weight_files(folder)}
        self._places = {name: path for path, file in self._files.items() for name in file.keys()}  # noqa: SIM118
        self._prefix = adapter_prefix(config)
        self.shapes = {name: tuple(p.shape) for name, p in _empty_model(config).named_parameters()}
        self._check()

    def __getitem__(self, name: str) -> torch.Tensor:
        source = self._source(name)
        return source.read(self._files[self._places[source.name]].get_tensor(source.name))

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def _source(self, name: str) -> Source:
        """Some files leave the prefix out of every name."""
        source = family_of(self.config).huggingface.source_of(name)
        if source.name not in self._places and source.name.removeprefix(self._prefix) in self._places:
            return Source(source.name.removeprefix(self._prefix), source.part, source.parts, source.is_transposed)
        return source

    def _check(self) -> None:
        """Missing, of another shape, left over: each would make another model than the file's."""
        used = set()
        for name, shape in self.shapes.items():
            source = self._source(name)
            if source.name not in self._places:
                raise ModelError(f"{self.folder} has no tensor {source.name} ({name}): it is incomplete, copy it again")
            view = self._files[self._places[source.name]].get_slice(source.name)
            stored, expected = tuple(view.get_shape()), source.shape_in_file(shape)
            if stored != expected:
                raise ModelError(f"{self.folder}: {source.name} has shape {stored}, config.json asks for {expected}")
            if view.get_dtype() not in ("F32", "F16", "BF16", "F64"):
                raise ModelError(
                    f"{self.folder}: {source.name} is {view.get_dtype()}, hanbit reads F32, F16, BF16, F64"
                )
            used.add(source.name)
        for name in sorted(set(self._places) - used):
            if not _is_harmless(name):
                raise ModelError(f"{self.folder} has a tensor {name} that {self.config.family} has no place for")


def _is_harmless(name: str) -> bool:
    """Tied copies, and constants that old files carry: GPT-2's causal masks, Llama's frequencies."""
    return name.endswith(("lm_head.weight", ".attn.bias", ".attn.masked_bias", "rotary_emb.inv_freq"))


def adapter_prefix(config: ModelConfig) -> str:
    return family_of(config).huggingface.prefix


def save_model(
    folder: Path | str,
    config: ModelConfig,
    tensors: Mapping[str, torch.Tensor],
    tokenizer_folder: Path | None,
    facts: dict[str, Any],
) -> None:
    """Write a folder that `transformers` loads; `tensors` are whole, by our names. An old folder is replaced at the end.

    `facts` go into hanbit.json. Raises ModelError where no architecture can say what `config` says.
    """
    target = Path(folder)
    described = family_of(config).huggingface.config_to(config)
    temporary = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    _write_weights(temporary, _stored(config, tensors))
    dtype = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
    ends = _copy_tokenizer(temporary, tokenizer_folder)
    write_json(temporary / "config.json", {**described, "dtype": dtype, "torch_dtype": dtype, **ends})
    write_json(temporary / "generation_config.json", {"_from_model_config": True, **ends})
    write_text(temporary / "README.md", model_card(target, config, facts))
    write_manifest(temporary, KIND, sorted(path.name for path in temporary.iterdir()), **facts)
    fsync_path(temporary)
    _replace(temporary, target)


def _replace(temporary: Path, target: Path) -> None:
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    temporary.rename(target)
    fsync_path(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _stored(config: ModelConfig, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """By Hugging Face's names: parts joined, matrices turned back where the architecture has them so."""
    adapter = family_of(config).huggingface
    parts: dict[str, dict[int, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        source = adapter.source_of(name)
        parts.setdefault(source.name, {})[source.part] = tensor.T if source.is_transposed else tensor
    return {
        name: (torch.cat([found[i] for i in sorted(found)], dim=-1) if len(found) > 1 else found[0]).contiguous()
        for name, found in parts.items()
    }


def _write_weights(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    shards: list[dict[str, torch.Tensor]] = [{}]
    room = SHARD_BYTES
    for name, tensor in tensors.items():
        if tensor.nbytes > room and shards[-1]:
            shards.append({})
            room = SHARD_BYTES
        shards[-1][name] = tensor
        room -= tensor.nbytes
    names = [WEIGHTS]
    if len(shards) > 1:
        names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
        places = {name: file for file, shard in zip(names, shards, strict=True) for name in shard}
        total = sum(tensor.nbytes for tensor in tensors.values())
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": places})
    for file, shard in zip(names, shards, strict=True):
        save_file(shard, folder / file, metadata={"format": "pt"})
        fsync_path(folder / file)


def _copy_tokenizer(folder: Path, tokenizer_folder: Path | None) -> dict[str, int]:
    """The tokenizer's files; and the ids of its ends, for readers that look for them in the model's config."""
    if tokenizer_folder is None:
        return {}
    source = tokenizer_folder if tokenizer_folder.is_dir() else tokenizer_folder.parent
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"):
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    tokenizer = load_tokenizer(tokenizer_folder)
    ends = {"bos_token_id": tokenizer.begin_id, "eos_token_id": tokenizer.end_id}
    return {key: value for key, value in ends.items() if value is not None}


def _empty_model(config: ModelConfig) -> Decoder:
    with torch.device("meta"):
        return family_of(config).build(config)


def _weight_files(folder: Path) -> list[Path]:
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        names = set(_read_json(folder / INDEX).get("weight_map", {}).values())
        for name in names:
            if not isinstance(name, str) or Path(name).name != name:
                raise ModelError(f"{folder / INDEX} names a file outside its folder: {name!r}")
        return [folder / name for name in sorted(names)]
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt")):
        raise ModelError(
            f"{folder} has pickled weights only, which hanbit does not read because they can run code. "
            "Save it as safetensors with transformers (save_pretrained) first"
        )
    raise ModelError(f"{folder} has no {WEIGHTS}: it is not a model folder")


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as problem:
        raise ModelError(f"{path} cannot be read: {problem}. It is truncated or damaged; copy it again") from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST_JSON_BYTES:
            raise ModelError(f"{path} is larger than {_LARGEST_JSON_BYTES} bytes")
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path} does not exist: {path.parent} is not a model folder") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as problem:
        raise ModelError(f"{path} is not JSON: {problem}") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path} must hold an object")
    return value

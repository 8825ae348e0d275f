"""Model folders in Hugging Face's layout: read with every tensor checked before memory is taken, written whole or not.

config.json  model.safetensors (or shards, an index)  generation_config.json  tokenizer files  README.md  hanbit.json
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError

from hanbit.checkpoint.model_card import model_card
from hanbit.checkpoint.model_json import read_json
from hanbit.checkpoint.model_weights import INDEX, FolderTensors, empty_model, weight_files, write_weights
from hanbit.checkpoint.weight_file import WeightFiles
from hanbit.common.atomic import replaced_folder, write_json, write_text
from hanbit.common.errors import ModelError
from hanbit.common.manifest import NAME, read_manifest, verify, write_manifest_with
from hanbit.config.model import LlamaConfig, MixtureConfig, ModelConfig, RotaryConfig, T5Config, num_layers
from hanbit.formats.packed.config import packing_of
from hanbit.models.registry import adapter_of, family_of
from hanbit.tokenizers.load import copy_tokenizer
from hanbit.tokenizers.load import load as load_tokenizer

KIND = "model"
_CONFIG = "config.json"
_GENERATION_KEYS = ("decoder_start_token_id", "pad_token_id")  # of an encoder and decoder, where its answers begin
_MOST_LAYERS = 1024  # the model is built before its weights are looked at: a million layers would take all day
_LARGEST_WIDTH = 2**24  # of anything else that is counted; beyond it is a lie or a mistake
_LARGEST_TENSOR = 2**40  # elements


def read_config(folder: Path | str) -> ModelConfig:
    """The model's shape from `config.json`; raises ModelError on what is missing, absurd, or not built here."""
    path = Path(folder) / _CONFIG
    config = read_json(path)
    try:
        read = _adapter_for(config).config_from(config)
        _refuse_absurd(read)
    except ModelError as problem:
        raise ModelError(f"{folder}: {problem}") from None
    except ValidationError as problem:
        first = problem.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ModelError(f"{path}: {place}={first['input']!r:.80}: {first['msg']}") from None
    return read


def load_model(folder: Path | str, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Any:
    """The whole model of a folder, a module of its family, in evaluation mode, its numbers in `dtype` on `device`.

    Raises ModelError on what `read_tensors` refuses, and on a tensor with NaN or what `dtype` does not hold.
    """
    tensors = read_tensors(folder)
    model = empty_model(tensors.config).to(dtype).to_empty(device=device)
    model.tie()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[name])
            tensors.require_finite(name, parameter)
    return model.eval().requires_grad_(False)


def read_tensors(folder: Path | str) -> FolderTensors:
    """Every tensor of the model by our name, read when asked for. Names, shapes, dtypes are checked here, before that,
    and where there is a hanbit.json, the SHA-256 of what is read. Raises ModelError."""
    folder = Path(folder)
    config = read_config(folder)
    if (folder / NAME).is_file():
        _verify(folder)
    return FolderTensors(folder, config, packing_of(read_json(folder / _CONFIG)))


def is_packed(folder: Path) -> bool:
    """Are its matrices in the int32 of AWQ, GPTQ or compressed-tensors? Raises ModelError on another quantisation."""
    return packing_of(read_json(folder / _CONFIG)) is not None


def save_model(
    folder: Path | str,
    config: ModelConfig,
    tensors: Mapping[str, torch.Tensor],
    tokenizer_folder: Path | None,
    facts: dict[str, Any],
    finish: Callable[[Path], dict[str, Any]] | None = None,
) -> None:
    """Write a folder that `transformers` loads. An earlier model in its place is kept until the new one is whole.

    tensors: whole, by our names, of one dtype; read one at a time, so a lazy mapping needs memory for one, or for those
    that lie in the file as one.
    `facts` go into hanbit.json. `finish` is called with the folder that is about to take the place, all but hanbit.json
    in it: it may add files, gives more facts, and by raising keeps what was there. Raises ModelError where no
    architecture can say what `config` says, where a name or shape is not the model's, where `folder` holds anything but
    a model made by hanbit, and when the disk refuses.
    """
    target = Path(folder).resolve()
    described = family_of(config).huggingface.config_to(config)
    _refuse_others(target)
    with _temporary(target) as temporary, WeightFiles(temporary) as files:
        dtype = write_weights(files, config, tensors)
        ends = _copy_tokenizer(temporary, tokenizer_folder)
        write_json(temporary / _CONFIG, {**described, "dtype": dtype, "torch_dtype": dtype, **ends})
        begins = {key: described[key] for key in _GENERATION_KEYS if described.get(key) is not None}
        write_json(temporary / "generation_config.json", {"_from_model_config": True, **begins, **ends})
        write_text(temporary / "README.md", model_card(target, config, facts))
        facts = {**facts, **(finish(temporary) if finish else {})}
        names = [path.relative_to(temporary).as_posix() for path in temporary.rglob("*") if path.is_file()]
        write_manifest_with(temporary, KIND, names, files.digests(), facts)


def _adapter_for(config: dict[str, Any]) -> Any:
    names = config.get("architectures")
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise ModelError("config.json must name one architecture, as in architectures=['LlamaForCausalLM']")
    adapter = adapter_of(names[0])
    expected = adapter.architectures[names[0]]
    if config.get("model_type") != expected:
        found = config.get("model_type")
        raise ModelError(f"config.json: {names[0]} has model_type={expected!r}, not {found!r:.80}")
    packing_of(config)  # refuses what is not read
    return adapter


def _refuse_absurd(config: ModelConfig) -> None:
    """Sizes that would keep the machine busy before the weights are compared with them."""
    layers = num_layers(config)
    if layers > _MOST_LAYERS:
        raise ModelError(f"config.json: {layers} layers are beyond any model (most: {_MOST_LAYERS})")
    sizes = {name: getattr(config, name) for name in ("hidden", "heads", "inner", "vocabulary", "context")}
    if isinstance(config, LlamaConfig):
        sizes["attention width"] = config.heads * int(config.head_dim)
        sizes["sliding_window"] = config.sliding_window or 1
    if isinstance(config, RotaryConfig):
        sizes["original context"] = (config.rotary_scaling and config.rotary_scaling.original_context) or 1
    if isinstance(config, T5Config):
        sizes["attention width"] = config.heads * int(config.head_dim)
        sizes["relative_attention_num_buckets"] = config.position_buckets
    if isinstance(config, MixtureConfig):
        sizes["experts x expert_inner"] = config.experts * int(config.expert_inner)
    for name, size in sizes.items():
        if size > _LARGEST_WIDTH or size * config.hidden > _LARGEST_TENSOR:
            raise ModelError(f"config.json: {name}={size} with hidden={config.hidden} is beyond any model")


def _verify(folder: Path) -> None:
    """Only the files that make the model: a model card is its owner's to edit."""
    manifest = read_manifest(folder, KIND, ModelError)
    names = {_CONFIG, *(path.name for path in weight_files(folder))}
    names |= {INDEX} & set(manifest["files"])
    try:
        for name in sorted(names - set(manifest["files"])):
            raise ModelError(f"{folder / name} is not listed in {NAME}")
        files = {name: manifest["files"][name] for name in names}
        verify(folder, {**manifest, "files": files}, ModelError)
    except (KeyError, TypeError):
        raise ModelError(f"{folder / NAME} is damaged. Copy the folder again, or remove this file") from None
    except ModelError as problem:
        raise ModelError(f"{problem}. Copy the folder again; if it was changed on purpose, remove {NAME}") from None


def _refuse_others(target: Path) -> None:
    """What is replaced is removed: that must be nothing but a model that hanbit wrote."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    try:
        listed = [Path(name) for name in read_manifest(target, KIND, ModelError)["files"]]
    except (ModelError, NotADirectoryError):
        raise ModelError(
            f"{target} is not a model made by hanbit and will not be replaced. Name a new folder"
        ) from None
    known = {Path(NAME), *listed, *(folder for path in listed for folder in path.parents)}
    others = sorted({path.relative_to(target) for path in target.rglob("*")} - known)
    if others:
        raise ModelError(f"{target} also holds {others[0]}, which would be lost. Move it away, or name a new folder")


@contextlib.contextmanager
def _temporary(target: Path) -> Iterator[Path]:
    """A folder that takes the place of `target` when the block ends well (readers look for `.NAME.old`, too)."""
    try:
        with replaced_folder(target) as temporary:
            yield temporary
    except NotADirectoryError as problem:
        raise ModelError(f"could not write {target}: a part of this path is a file. Name another folder") from problem
    except (OSError, SafetensorError) as problem:
        raise ModelError(
            f"could not write {target}: {problem}. What was there before is kept; make room or name another disk"
        ) from problem


def _copy_tokenizer(folder: Path, tokenizer_folder: Path | None) -> dict[str, int | None]:
    """The tokenizer's files; and the ids of its ends, null where there are none: a reader that finds no key takes its
    architecture's default, and would stop at an everyday token."""
    if tokenizer_folder is None:
        return {"bos_token_id": None, "eos_token_id": None}
    tokenizer = load_tokenizer(tokenizer_folder)
    copy_tokenizer(tokenizer, folder)
    return {"bos_token_id": tokenizer.begin_id, "eos_token_id": tokenizer.end_id}

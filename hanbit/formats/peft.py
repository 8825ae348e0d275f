"""LoRA adapter folders as `peft` writes and reads them: adapter_config.json and adapter_model.safetensors.

A linear layer W gives W x + scale * B (A x), A [rank, in], B [out, rank] (Hu et al., arXiv 2106.09685). Here layers go
by our module names, one A and B for each. GPT-2's files have query, key and value in one matrix: read, B is cut in
three; written, the parts' A stand above one another and their B on a diagonal, which is the same sum.

An adapter comes from anywhere: names, shapes and dtypes are compared with the model before memory is taken, and a
setting that would change the numbers and is not built here is refused by name.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from hanbit.common.atomic import replaced_folder, write_json, write_text
from hanbit.common.errors import ModelError
from hanbit.common.json_object import read_object
from hanbit.common.manifest import NAME, read_manifest, verify, write_manifest
from hanbit.config.model import ModelConfig
from hanbit.models.huggingface import Source
from hanbit.models.registry import family_of

KIND = "adapter"
CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_LARGEST_CONFIG_BYTES = 10_000_000
_DTYPES = ("F32", "F16", "BF16", "F64")
_PLAIN_NAME = re.compile(r"[\w.]+")
# What says nothing of the numbers of a finished adapter, or is told by its tensors
_WITHOUT_EFFECT = {
    "peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "target_modules", "exclude_modules",
    "lora_dropout", "fan_in_fan_out", "bias", "init_lora_weights", "layers_to_transform", "layers_pattern",
    "megatron_core", "qalora_group_size", "runtime_config", "eva_config", "loftq_config",
}  # fmt: skip
_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")  # others change the base model's weights too


@dataclass(frozen=True)
class Adapter:
    """`layers`: our module name ("layers.3.attention.query") -> (A [rank, in], B [out, rank]), float32.

    The layer's output is W x + bias + scale * B (A x).
    """

    name: str
    scale: float
    layers: dict[str, tuple[torch.Tensor, torch.Tensor]]


def read_adapter(folder: Path | str, config: ModelConfig) -> Adapter:
    """The adapter in `folder` for a model of this config; named like its folder.

    Raises ModelError on what is missing, damaged, of another model, or not built here.
    """
    folder = Path(folder)
    settings = _read_settings(folder)
    if (folder / NAME).is_file():
        verify(folder, read_manifest(folder, KIND, ModelError), ModelError)
    scale = _scale(settings, "", settings["r"])
    layers: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    known = _linear_layers(config)
    with _opened(folder) as file:
        modules = _checked_shapes(folder, file, config, settings)
        for path, parts in modules.items():
            a, b = (file.get_tensor(_tensor_name(path, letter)).float() for letter in "AB")
            factor = _scale(settings, path, a.shape[0]) / scale if scale else 0.0
            b = b if factor == 1.0 else b * factor
            for name, source in parts.items():
                own = known[name][0]
                layers[name] = (a, source.rows_of(b, own).flatten(0, 1).contiguous())
    return Adapter(folder.resolve().name, scale, layers)


def write_adapter(
    folder: Path | str, adapter: Adapter, config: ModelConfig, base: str, facts: Mapping[str, Any]
) -> None:
    """Write a folder that `peft.PeftModel.from_pretrained` loads; an earlier adapter stays until the new one is whole.

    All layers have one rank. `base`: the folder or hub name of the model that it belongs to. `facts` go into
    hanbit.json. Raises ModelError where `folder` holds anything but an adapter made by hanbit, or the disk refuses.
    """
    folder = Path(folder)
    _refuse_others(folder)
    rank = next(iter(adapter.layers.values()))[0].shape[0]
    modules = _by_module(config, adapter.layers)
    tensors: dict[str, torch.Tensor] = {}
    ranks: dict[str, int] = {}
    for path, parts in modules.items():
        a, b = _joined(parts, adapter.layers)
        assert a.shape[0] % rank == 0, "all layers of an adapter have one rank"
        tensors |= {_tensor_name(path, "A"): a, _tensor_name(path, "B"): b}
        ranks[path] = a.shape[0]
    settings = _settings(config, ranks, rank, adapter.scale, base)
    try:
        with replaced_folder(folder) as temporary:
            save_file(tensors, temporary / WEIGHTS, metadata={"format": "pt"})
            write_json(temporary / CONFIG, settings)
            write_text(temporary / "README.md", _card(folder, base, settings))
            write_manifest(temporary, KIND, [WEIGHTS, CONFIG, "README.md"], **facts)
    except (OSError, SafetensorError) as problem:
        raise ModelError(f"could not write {folder}: {problem}. Make room or name another disk") from problem


def _read_settings(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    settings = read_object(path, _LARGEST_CONFIG_BYTES, ModelError, f"{folder} is not an adapter folder")
    for first in _problems(settings):
        raise ModelError(f"{path}: {first}")
    return settings


def _problems(settings: dict[str, Any]) -> Iterator[str]:
    """What would make other numbers than A and B alone; a key that is not known and set counts as such."""
    kind = settings.get("peft_type")
    if kind != "LORA":
        yield f"peft_type={kind!r:.80} is not built in hanbit; it reads LORA"
    if settings.get("bias", "none") != "none":
        yield f"bias={settings['bias']!r:.80} trains biases of the base model, which is not built in hanbit"
    if settings.get("init_lora_weights") not in _STARTS:
        start = settings["init_lora_weights"]
        yield f"init_lora_weights={start!r:.80} changes the base model's own weights, which is not built in hanbit"
    for key, value in settings.items():
        if key not in _WITHOUT_EFFECT and value:
            yield f"{key[:80]}={value!r:.80} is not built in hanbit"
    rank, alpha = settings.get("r"), settings.get("lora_alpha")
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        yield f"r={rank!r:.80} must be a whole number above 0"
    if not _is_number(alpha):
        yield f"lora_alpha={alpha!r:.80} must be a number"
    for key in ("rank_pattern", "alpha_pattern"):
        pattern = settings.get(key) or {}
        if not isinstance(pattern, dict) or not all(map(_is_number, pattern.values())):
            yield f"{key} must be an object of numbers"
        elif not all(map(_PLAIN_NAME.fullmatch, pattern)):
            yield f"{key} has a regular expression, and hanbit runs none from files. Write module names out"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _scale(settings: dict[str, Any], path: str, rank: int) -> float:
    """alpha / rank, or alpha / sqrt(rank) with use_rslora (arXiv 2312.03732)."""
    alpha = _of_pattern(settings.get("alpha_pattern"), path, settings["lora_alpha"])
    return alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def _of_pattern(pattern: dict[str, Any] | None, path: str, default: Any) -> Any:
    """The first entry that is the module's path or its end, as peft looks it up."""
    return next((value for key, value in (pattern or {}).items() if f".{path}".endswith(f".{key}")), default)


def _opened(folder: Path) -> Any:
    path = folder / WEIGHTS
    if not path.is_file() and (folder / "adapter_model.bin").is_file():
        raise ModelError(f"{folder} has pickled weights, which hanbit does not read because they can run code")
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as problem:
        raise ModelError(f"{path} cannot be read: {problem}. It is missing, truncated or damaged") from None


def _checked_shapes(
    folder: Path, file: Any, config: ModelConfig, settings: dict[str, Any]
) -> dict[str, dict[str, Source]]:
    """Modules of the file, each with our layers in it; names, shapes and dtypes are the model's, none is left over."""
    known = _by_module(config, _linear_layers(config))
    stored = set(file.keys())
    found = {path: parts for path, parts in known.items() if {_tensor_name(path, letter) for letter in "AB"} & stored}
    for name in sorted(stored - {_tensor_name(path, letter) for path in found for letter in "AB"}):
        raise ModelError(
            f"{folder / WEIGHTS} has {name[:200]}, which is no LoRA matrix of a linear layer of this {config.family}"
        )
    if not found:
        raise ModelError(f"{folder / WEIGHTS} holds no LoRA matrix")
    sizes = _linear_layers(config)
    for path, parts in found.items():
        name, source = next(iter(parts.items()))
        outputs, inputs = sizes[name]
        rank = _of_pattern(settings.get("rank_pattern"), path, settings["r"])
        expected = {"A": (rank, inputs), "B": (source.all_rows(outputs), rank)}
        for letter, shape in expected.items():
            _check_tensor(folder, file, _tensor_name(path, letter), shape)
    return found


def _check_tensor(folder: Path, file: Any, name: str, shape: tuple[int, int]) -> None:
    try:
        view = file.get_slice(name)
    except SafetensorError:
        raise ModelError(f"{folder / WEIGHTS} has no {name}, though its other half is there") from None
    if tuple(view.get_shape()) != shape:
        raise ModelError(f"{folder / WEIGHTS}: {name} is {tuple(view.get_shape())}, model and rank ask for {shape}")
    if view.get_dtype() not in _DTYPES:
        raise ModelError(f"{folder / WEIGHTS}: {name} is {view.get_dtype()}, hanbit reads {', '.join(_DTYPES)}")


def _linear_layers(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """Our linear layers inside blocks: name -> (outputs, inputs)."""
    with torch.device("meta"):
        model = family_of(config).build(config)
    linears = ((name, module) for name, module in model.layers.named_modules() if isinstance(module, nn.Linear))
    return {f"layers.{name}": (module.out_features, module.in_features) for name, module in linears}


def _by_module(config: ModelConfig, names: Mapping[str, Any]) -> dict[str, dict[str, Source]]:
    """Their module path -> our layers in it: one, or up to three of a fused one."""
    modules: dict[str, dict[str, Source]] = {}
    for name in names:
        source = family_of(config).huggingface.source_of(f"{name}.weight", config)
        modules.setdefault(source.name.removesuffix(".weight"), {})[name] = source
    return modules


def _tensor_name(path: str, letter: str) -> str:
    return f"{_PREFIX}{path}.lora_{letter}.weight"


def _joined(
    parts: Mapping[str, Source], layers: Mapping[str, tuple[torch.Tensor, torch.Tensor]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """One A and B of a module: a plain one's as they are, a fused one's below each other and on the diagonal."""
    first = next(iter(parts.values()))
    if first.parts == 1:
        a, b = layers[next(iter(parts))]
        return a.contiguous(), b.contiguous()
    stacked = torch.cat([layers[name][0] for name in parts])
    outputs, rank = layers[next(iter(parts))][1].shape
    diagonal = stacked.new_zeros(first.all_rows(outputs), len(parts) * rank)
    for place, (name, source) in enumerate(parts.items()):
        own = layers[name][1]
        rows = source.rows_of(diagonal, len(own))[..., place * rank : (place + 1) * rank]
        rows.copy_(own.view_as(rows))
    return stacked, diagonal


def _settings(config: ModelConfig, ranks: dict[str, int], rank: int, scale: float, base: str) -> dict[str, Any]:
    output = family_of(config).huggingface.source_of("layers.0.attention.output.weight", config)
    targets = _target_names(ranks, _by_module(config, _linear_layers(config)))
    odd = {targets[path]: wide for path, wide in ranks.items() if wide != rank}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": _whole_where_it_is(scale * rank),
        "lora_dropout": 0.0,
        "target_modules": sorted(set(targets.values())),
        "rank_pattern": odd,
        "alpha_pattern": {name: _whole_where_it_is(scale * wide) for name, wide in odd.items()},
        "bias": "none",
        "fan_in_fan_out": output.is_transposed,
        "use_rslora": False,
        "use_dora": False,
        "modules_to_save": None,
    }


def _target_names(chosen: Mapping[str, Any], every: Mapping[str, Any]) -> dict[str, str]:
    """The shortest end of each path that means no module which was not chosen: `q_proj`, `attn.c_proj`."""
    others = [f".{path}" for path in every if path not in chosen]
    names = {}
    for path in chosen:
        words = path.split(".")
        ends = [".".join(words[-count:]) for count in range(1, len(words) + 1)]
        names[path] = next(end for end in ends if not any(other.endswith(f".{end}") for other in others))
    return names


def _whole_where_it_is(value: float) -> int | float:
    return round(value) if abs(value - round(value)) < 1e-9 else value


def _refuse_others(folder: Path) -> None:
    """What is replaced is removed: that must be nothing but an adapter that hanbit wrote."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    try:
        listed = set(read_manifest(folder, KIND, ModelError)["files"])
    except (ModelError, NotADirectoryError):
        raise ModelError(f"{folder} is not an adapter made by hanbit and will not be replaced. Name another") from None
    others = sorted({path.name for path in folder.iterdir()} - listed - {NAME})
    if others:
        raise ModelError(f"{folder} also holds {others[0]}, which would be lost. Move it away, or name another folder")


def _card(folder: Path, base: str, settings: Mapping[str, Any]) -> str:
    targets = ", ".join(settings["target_modules"])
    return f"""---
library_name: peft
base_model: {json.dumps(base)}
pipeline_tag: text-generation
tags:
- lora
- hanbit
---

# {folder.resolve().parent.name}

A LoRA adapter of rank {settings["r"]} (alpha {settings["lora_alpha"]}) for `{base}`, on {targets}.
Written by hanbit. Licence, data and intended use are not stated yet.

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{base}"), "{folder.name}")
```
"""

"""Small folders of AWQ, GPTQ and compressed-tensors, written number by number as those packages do it.

AutoAWQ: WQLinear_GEMM.from_linear. AutoGPTQ: QuantLinear.pack. compressed-tensors: pack_to_int32.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from tests.checkpoint.model_folders import change_config

ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def codes_of(shape: tuple[int, int], group: int, bits: int, *, zero: int | None, seed: int) -> tuple[Any, Any, Any]:
    """Random (codes [out, in], zeros [out, groups], scales [out, groups] fp16)."""
    random = np.random.default_rng(seed)
    groups = (shape[0], shape[1] // group)
    zeros = random.integers(1, 2**bits - 1, groups) if zero is None else np.full(groups, zero)
    codes = random.integers(0, 2**bits, shape)
    return codes, zeros, random.uniform(0.2, 1.0, groups).astype(np.float16) * np.float16(0.05 * 16 / 2**bits)


def numbers_of(codes: Any, zeros: Any, scales: Any, group_of: Any = None) -> torch.Tensor:
    """One at a time, float64."""
    found = torch.empty(codes.shape)
    for row in range(codes.shape[0]):
        for column in range(codes.shape[1]):
            group = column // (codes.shape[1] // zeros.shape[1]) if group_of is None else group_of[column]
            found[row, column] = (int(codes[row, column]) - int(zeros[row, group])) * float(scales[row, group])
    return found


def _int32(words: np.ndarray) -> torch.Tensor:
    return torch.from_numpy((words & 0xFFFFFFFF).astype(np.uint32).view(np.int32).copy())


def _packed(values: np.ndarray, bits: int, order: list[int] | None = None) -> np.ndarray:
    """[rows, columns] -> [rows, words], the lowest bits first."""
    each = 32 // bits
    words = np.zeros((values.shape[0], math.ceil(values.shape[1] / each)), np.int64)
    for row in range(values.shape[0]):
        for column in range(values.shape[1]):
            word, place = divmod(column, each)
            source = column if order is None else word * each + order[place]
            words[row, word] |= int(values[row, source]) << bits * place
    return words


def awq(name: str, codes: Any, zeros: Any, scales: Any) -> dict[str, torch.Tensor]:
    return {
        f"{name}.qweight": _int32(_packed(codes.T, 4, ORDER)),
        f"{name}.qzeros": _int32(_packed(zeros.T, 4, ORDER)),
        f"{name}.scales": torch.from_numpy(scales.T.copy()),
    }


def gptq(
    name: str, codes: Any, zeros: Any, scales: Any, bits: int = 4, added: int = 1, group_of: Any = None
) -> dict[str, torch.Tensor]:
    """added: what the format takes from zeros, 1 in the first, 0 in the second."""
    columns, groups = codes.shape[1], zeros.shape[1]
    order = np.arange(columns) // (columns // groups) if group_of is None else group_of
    return {
        f"{name}.qweight": _int32(_packed(codes, bits).T),
        f"{name}.qzeros": _int32(_packed(zeros.T - added, bits)),
        f"{name}.scales": torch.from_numpy(scales.T.copy()),
        f"{name}.g_idx": torch.from_numpy(np.asarray(order, dtype=np.int32)),
    }


def compressed(name: str, codes: Any, zeros: Any, scales: Any, bits: int = 4) -> dict[str, torch.Tensor]:
    found = {
        f"{name}.weight_packed": _int32(_packed(codes, bits)),
        f"{name}.weight_scale": torch.from_numpy(scales.copy()),
        f"{name}.weight_shape": torch.tensor(codes.shape),
    }
    if not (zeros == 2 ** (bits - 1)).all():
        found[f"{name}.weight_zero_point"] = _int32(_packed(zeros.T, bits).T)
    return found


AWQ_CONFIG = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True}
GPTQ_CONFIG = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": False}
COMPRESSED_CONFIG = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "kv_cache_scheme": None,
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "input_activations": None,
            "output_activations": None,
            "weights": {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32},
        }
    },
}


def pack_folder(
    folder: Path, write: Any, config: dict[str, Any], ends: tuple[str, ...] = ("_proj.weight",)
) -> dict[str, torch.Tensor]:
    """Put packed matrices in place of a folder's projections; what they mean is given by Hugging Face names.

    write: (name, shape, seed) -> (tensors, numbers). ends: of the projections' names.
    """
    tensors, meant = load_file(folder / "model.safetensors"), {}
    for seed, name in enumerate(sorted(tensors)):
        if name.endswith(ends):
            layer = name.removesuffix(".weight")
            packed, meant[name] = write(layer, tuple(tensors.pop(name).shape), seed)
            tensors |= packed
    save_file({name: one.contiguous() for name, one in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    change_config(folder, {"quantization_config": config})
    return meant

"""The proof of a conversion from GGUF, by readers that the conversion did not use.

The source is read by the package `gguf`'s own reader, the target by safetensors. Every tensor of the target is brought
into llama.cpp's order, as its converter does it, and must equal the source's, rounded to the target's dtype, in every
bit. Then the source's tensors, as they lie there, are run through a model written out below with llama.cpp's own way of
rotating, and the target through ours: the logits must agree.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf.constants import MODEL_ARCH_NAMES
from safetensors import safe_open

from hanbit.checkpoint.model_folder import load_model
from hanbit.common.errors import ModelError
from hanbit.convert.logits import compared, logits_of_ours, tokens_to_try
from hanbit.convert.origin import Report

Pull = Callable[[str], torch.Tensor]  # source tensor by its name in the GGUF file, compared on the way


def prove(source: Path, folder: Path, report: Report) -> dict[str, Any]:
    """Raises ModelError at the first tensor that differs, or if logits do. Needs memory for the model twice."""
    with ExitStack() as stack:
        tensors = _Compared(gguf.GGUFReader(source), folder, stack, report)
        tokens = tokens_to_try(tensors.values["vocabulary"], tensors.values["context"])
        wanted = plain_logits(tensors.pull, tensors.values, tokens)
        tensors.require_all()
    report("comparing logits", 1.0)
    found = logits_of_ours(load_model(folder), tokens)
    return {
        "tensors": tensors.num_compared,
        "largest_rounding": tensors.largest_rounding,
        **compared(wanted, found, folder),
        "readers": "gguf.GGUFReader and safetensors",
    }


class _Compared:
    """The source's tensors, each compared with the target's when it is first pulled."""

    def __init__(self, reader: gguf.GGUFReader, folder: Path, stack: ExitStack, report: Report) -> None:
        self._folder, self._report = folder, report
        self._source = {tensor.name: tensor for tensor in reader.tensors}
        self.values = _values(reader, set(self._source))
        self._files: dict[str, Any] = {}
        for path in sorted(folder.glob("*.safetensors")):
            file = stack.enter_context(safe_open(path, framework="pt"))
            self._files |= dict.fromkeys(file.keys(), file)
        self._names = self._gguf_names()
        self._left = set(self._source)
        self.num_compared, self.largest_rounding = 0, 0.0

    def pull(self, name: str) -> torch.Tensor:
        tensor = self._source[name]
        numbers = torch.from_numpy(np.require(gguf.dequantize(tensor.data, tensor.tensor_type), requirements="W"))
        self._left.discard(name)
        if name == "rope_freqs.weight":
            return numbers  # not a tensor of the target: logits are its proof
        stored = self._files[self._names[name]].get_tensor(self._names[name])
        rounded = numbers.to(stored.dtype)
        if not torch.equal(rounded, self._as_in_gguf(name, stored)):
            raise ModelError(f"proof failed: {self._names[name]} of {self._folder} is not {name} of the source")
        self.num_compared += 1
        if rounded is not numbers:
            self.largest_rounding = max(self.largest_rounding, float((rounded.float() - numbers).abs().max()))
        self._report("comparing tensors", 1 - len(self._left) / len(self._source))
        return rounded.float()

    def require_all(self) -> None:
        """A tensor that no one asked for was not proven."""
        left = self._left | (set(self._files) - set(self._names.values()))
        if left:
            raise ModelError(f"proof failed: {min(left)} has no counterpart that was compared")

    def _gguf_names(self) -> dict[str, str]:
        """By the map that llama.cpp's converter uses."""
        architecture = next(one for one, name in MODEL_ARCH_NAMES.items() if name == self.values["architecture"])
        names = gguf.get_tensor_name_map(architecture, self.values["layers"])
        return {str(names.get_name(name, try_suffixes=(".weight", ".bias"))): name for name in self._files}

    def _as_in_gguf(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """`permute` of llama.cpp's convert_hf_to_gguf.py."""
        part = name.split(".")[-2]
        heads = {"attn_q": self.values["heads"], "attn_k": self.values["key_value_heads"]}.get(part)
        if heads is None or self.values["architecture"] != "llama":
            return tensor
        halves = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
        return halves.transpose(1, 2).reshape(tensor.shape)


def _values(reader: gguf.GGUFReader, names: set[str]) -> dict[str, Any]:
    """Of the model's shape, from the metadata as the package reads them."""
    name = reader.fields["general.architecture"].contents()

    def value(key: str, default: Any = None) -> Any:
        field = reader.fields.get(f"{name}.{key}")
        return default if field is None else field.contents()

    heads = value("attention.head_count")
    is_linear = value("rope.scaling.type") == "linear"
    return {
        "architecture": name,
        "names": names,
        "layers": value("block_count"),
        "context": value("context_length"),
        "heads": heads,
        "key_value_heads": value("attention.head_count_kv", heads),
        "head_dim": value("attention.key_length", value("embedding_length") // heads),
        "rotated": value("rope.dimension_count"),
        "epsilon": value("attention.layer_norm_rms_epsilon"),
        "base": value("rope.freq_base", 10000.0),
        "stretch": value("rope.scaling.factor", 1.0) if is_linear else 1.0,
        "vocabulary": next(int(one.shape[1]) for one in reader.tensors if one.name == "token_embd.weight"),
    }


def plain_logits(pull: Pull, values: Mapping[str, Any], tokens: torch.Tensor) -> torch.Tensor:
    """tokens [tokens] int64 -> logits [tokens, vocabulary] float32: the architecture as a plain loop."""

    def linear(hidden: torch.Tensor, name: str) -> torch.Tensor:
        product = hidden @ pull(f"{name}.weight").T
        return product + pull(f"{name}.bias") if f"{name}.bias" in values["names"] else product

    def normed(hidden: torch.Tensor, name: str) -> torch.Tensor:
        mean_square = hidden.pow(2).mean(-1, keepdim=True)
        return hidden / torch.sqrt(mean_square + values["epsilon"]) * pull(f"{name}.weight")

    angles = _angles(pull, values, len(tokens))
    embedding = pull("token_embd.weight")
    hidden = embedding[tokens]
    for index in range(values["layers"]):
        block = f"blk.{index}"
        before = normed(hidden, f"{block}.attn_norm")
        if values["architecture"] == "phi3":
            heads = linear(before, f"{block}.attn_qkv").unflatten(-1, (-1, values["head_dim"]))
            q, k, v = heads.split((values["heads"], values["key_value_heads"], values["key_value_heads"]), dim=-2)
        else:
            q, k, v = (linear(before, f"{block}.attn_{part}").unflatten(-1, (-1, values["head_dim"])) for part in "qkv")
        if values["architecture"] == "qwen3":
            q, k = normed(q, f"{block}.attn_q_norm"), normed(k, f"{block}.attn_k_norm")
        turn = _turned_in_pairs if values["architecture"] == "llama" else _turned_in_halves
        hidden = hidden + linear(_attended(turn(q, angles), turn(k, angles), v), f"{block}.attn_output")
        before = normed(hidden, f"{block}.ffn_norm")
        up = linear(before, f"{block}.ffn_up")
        gate, up = (
            up.chunk(2, dim=-1) if values["architecture"] == "phi3" else (linear(before, f"{block}.ffn_gate"), up)
        )
        inner = gate * torch.sigmoid(gate) * up
        hidden = hidden + linear(inner, f"{block}.ffn_down")
    output = pull("output.weight") if "output.weight" in values["names"] else embedding
    return normed(hidden, "output_norm") @ output.T


def _angles(pull: Pull, values: Mapping[str, Any], num_tokens: int) -> torch.Tensor:
    """[tokens, 1, half of the rotated features of a head]."""
    rotated = values["rotated"] or values["head_dim"]
    exponents = torch.arange(0, rotated, 2, dtype=torch.float32) / rotated
    frequencies = values["base"] ** -exponents / values["stretch"]
    if "rope_freqs.weight" in values["names"]:
        frequencies = frequencies / pull("rope_freqs.weight")
    return (torch.arange(num_tokens).float()[:, None] * frequencies)[:, None]


def _turned_in_pairs(heads: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """Features 2i and 2i + 1 turn together (LLAMA_ROPE_TYPE_NORM)."""
    first, second = heads[..., 0::2], heads[..., 1::2]
    cos, sin = angles.cos(), angles.sin()
    return torch.stack((first * cos - second * sin, first * sin + second * cos), dim=-1).flatten(-2)


def _turned_in_halves(heads: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """Features i and i + half turn together (LLAMA_ROPE_TYPE_NEOX), those beyond the rotated ones do not."""
    half = angles.shape[-1]
    first, second, rest = heads.split((half, half, heads.shape[-1] - 2 * half), dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((first * cos - second * sin, first * sin + second * cos, rest), dim=-1)


def _attended(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """q [tokens, heads, head_dim] -> [tokens, heads * head_dim]; neighbouring query heads share a key head."""
    tokens, heads, width = q.shape
    k, v = (part.repeat_interleave(heads // k.shape[1], dim=1) for part in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q, k) / width**0.5
    is_later = torch.ones(tokens, tokens).triu(1).bool()
    weights = scores.masked_fill(is_later, -torch.inf).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, v).flatten(-2)

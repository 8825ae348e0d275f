"""The shape of a GGUF file's model: its `<architecture>.*` keys as our configuration.

A key that is not known here may change the numbers, so it is refused by name; nothing is dropped silently. What keys do
not say, the tensors do: a file without `output.weight` is tied, one with `attn_q.bias` has biases.
"""

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from hanbit.common.errors import FormatError
from hanbit.config.model import LlamaConfig, Phi3Config
from hanbit.convert.gguf_metadata import Metadata
from hanbit.convert.gguf_rotary import ROTARY_KEYS, scaling_of
from hanbit.formats.gguf.file import GGUFFile

_MOST_LAYERS = 1024
_WIDEST = 2**24  # all heads together
_ORIGINAL = "rope.scaling.original_context_length"


@dataclass(frozen=True)
class Architecture:
    """`is_interleaved`: the file's rotary pairs are (2i, 2i + 1), not (i, i + half). `is_joined`: query, key and value
    are one matrix, gate and up another; a part of a head may be rotated."""

    is_interleaved: bool
    query_key_norm: bool = False
    is_joined: bool = False


ARCHITECTURES = {
    "llama": Architecture(is_interleaved=True),
    "qwen2": Architecture(is_interleaved=False),
    "qwen3": Architecture(is_interleaved=False, query_key_norm=True),
    "phi3": Architecture(is_interleaved=False, is_joined=True),
}
_KNOWN = {
    "block_count", "context_length", "embedding_length", "feed_forward_length", "vocab_size",
    "attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length",
    "attention.layer_norm_rms_epsilon", "attention.sliding_window", "expert_count", "expert_used_count",
    *ROTARY_KEYS,
}  # fmt: skip


def architecture_of(metadata: Metadata) -> tuple[str, Architecture]:
    """(name, what is particular about it)."""
    name = metadata.text("general.architecture")
    if name not in ARCHITECTURES:
        raise metadata.refuse("general.architecture", f"is not read here; {', '.join(ARCHITECTURES)} are")
    return name, ARCHITECTURES[name]


def config_of(file: GGUFFile) -> LlamaConfig:
    """Raises FormatError on what is missing, absurd or not built. The tensors' shapes are not looked at yet."""
    metadata = Metadata(file)
    name, architecture = architecture_of(metadata)
    _refuse_unknown(metadata, name)
    layers = metadata.count(f"{name}.block_count", most=min(_MOST_LAYERS, max(len(file.places), 1)))
    context = metadata.count(f"{name}.context_length")
    heads = _heads(metadata, name, architecture)
    base = metadata.number(f"{name}.rope.freq_base", 10000.0)
    values = {
        "family": "phi3" if architecture.is_joined else "llama",
        "layers": layers,
        **heads,
        "inner": metadata.count(f"{name}.feed_forward_length"),
        "vocabulary": _vocabulary(file, metadata, name),
        "context": context,
        "norm_epsilon": metadata.number(f"{name}.attention.layer_norm_rms_epsilon"),
        "tied": "output.weight" not in file.places,
        "rotary_base": float(base),
        "rotary_scaling": scaling_of(file, metadata, name, heads["head_dim"], base, context),
        "query_key_value_bias": "blk.0.attn_q.bias" in file.places,
        "attention_output_bias": "blk.0.attn_output.bias" in file.places,
        "mlp_bias": "blk.0.ffn_gate.bias" in file.places,
        "query_key_norm": architecture.query_key_norm,
    }
    if architecture.is_joined:
        values["rotary_fraction"] = (
            metadata.count(f"{name}.rope.dimension_count", heads["head_dim"]) / heads["head_dim"]
        )
        _refuse_longer(metadata, name, context)
    _refuse_window(metadata, name, context)
    return _validated(file, values)


def _refuse_unknown(metadata: Metadata, name: str) -> None:
    known = _KNOWN | ({_ORIGINAL} if ARCHITECTURES[name].is_joined else set())
    for key in metadata.below(f"{name}."):
        if key.removeprefix(f"{name}.") not in known:
            raise metadata.refuse(key, "is not built in hanbit, and without it the model would be another")
    for key in ("expert_count", "expert_used_count"):
        if f"{name}.{key}" in metadata and metadata.index(f"{name}.{key}", 2**24) != 0:
            raise metadata.refuse(f"{name}.{key}", "names a mixture of experts, which is not built in hanbit")


def _refuse_longer(metadata: Metadata, name: str, context: int) -> None:
    """Phi-3's files name the context that they were trained with, which is the whole one unless it is stretched."""
    if metadata.count(f"{name}.{_ORIGINAL}", context) != context:
        raise metadata.refuse(f"{name}.{_ORIGINAL}", f"is not the context of {context}: no stretch of it is built")


def _heads(metadata: Metadata, name: str, architecture: Architecture) -> dict[str, int]:
    hidden, heads = metadata.count(f"{name}.embedding_length"), metadata.count(f"{name}.attention.head_count")
    key_value_heads = metadata.count(f"{name}.attention.head_count_kv", heads)
    if heads % key_value_heads:
        raise metadata.refuse(f"{name}.attention.head_count_kv", f"does not divide {name}.attention.head_count={heads}")
    key = f"{name}.attention.key_length"
    if key not in metadata and hidden % heads:
        raise metadata.refuse(f"{name}.attention.head_count", f"does not divide {name}.embedding_length={hidden}")
    head_dim = metadata.count(key, hidden // heads)
    widths = (
        ("attention.value_length",) if architecture.is_joined else ("attention.value_length", "rope.dimension_count")
    )
    for other in (f"{name}.{width}" for width in widths):
        if metadata.count(other, head_dim) != head_dim:
            raise metadata.refuse(other, f"is not the width of a head, {head_dim}, which is all that is built")
    if heads * head_dim > _WIDEST:
        raise metadata.refuse(f"{name}.attention.head_count", f"x {head_dim} is beyond any model (most: {_WIDEST})")
    if head_dim % 2:
        raise FormatError(f"{metadata.path}: heads of width {head_dim} cannot be rotated in pairs; it must be even")
    return {"hidden": hidden, "heads": heads, "key_value_heads": key_value_heads, "head_dim": head_dim}


def _vocabulary(file: GGUFFile, metadata: Metadata, name: str) -> int:
    """Rows of the embedding, which may be more than there are tokens."""
    place = file.places.get("token_embd.weight")
    if place is None:
        raise FormatError(f"{file.path} has no tensor token_embd.weight: it is not a whole model")
    rows = place.shape[0]
    if metadata.count(f"{name}.vocab_size", rows) != rows:
        raise metadata.refuse(f"{name}.vocab_size", f"is not the number of rows of token_embd.weight, {rows}")
    return rows


def _refuse_window(metadata: Metadata, name: str, context: int) -> None:
    """llama.cpp does not honour it for these architectures, Hugging Face does: the file contradicts itself."""
    key = f"{name}.attention.sliding_window"
    if ARCHITECTURES[name].is_joined and key in metadata and metadata.index(key, 2**24) == 0:
        return  # none, as llama.cpp's converter writes it for Phi-4
    if metadata.count(key, context) < context:
        raise metadata.refuse(key, f"is shorter than the context of {context}, which is not read from GGUF files")


def _validated(file: GGUFFile, values: dict[str, Any]) -> LlamaConfig:
    try:
        return (Phi3Config if values["family"] == "phi3" else LlamaConfig).model_validate(values)
    except ValidationError as problem:
        first = problem.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise FormatError(f"{file.path}: {place}={first['input']!r:.80}: {first['msg']}") from None

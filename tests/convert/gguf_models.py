"""Small random models as GGUF files, made as llama.cpp's converter makes them, through the package's writer."""

import json
import tempfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from hanbit.tokenizers import train

TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "대한민국은 민주공화국이다. 안녕하세요 😀",
    "x = 2048 + 17",
] * 5
LAYERS, HIDDEN, HEADS, KEY_VALUE_HEADS, HEAD_DIM, INNER, CONTEXT, ROWS = 2, 64, 4, 2, 16, 96, 128, 320
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
PHI3 = {"phi3.rope.scaling.original_context_length": CONTEXT, "phi3.attention.sliding_window": CONTEXT}
_MATRICES = {
    "self_attn.q_proj": (HEADS * HEAD_DIM, HIDDEN),
    "self_attn.k_proj": (KEY_VALUE_HEADS * HEAD_DIM, HIDDEN),
    "self_attn.v_proj": (KEY_VALUE_HEADS * HEAD_DIM, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HEADS * HEAD_DIM),
    "mlp.gate_proj": (INNER, HIDDEN),
    "mlp.up_proj": (INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
}

_JOINED = {
    "self_attn.qkv_proj": ((HEADS + 2 * KEY_VALUE_HEADS) * HEAD_DIM, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HEADS * HEAD_DIM),
    "mlp.gate_up_proj": (2 * INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
}


def huggingface_tensors(kind: str = "llama", *, tied: bool = True, biases: bool | None = None) -> dict[str, np.ndarray]:
    """By Hugging Face's names and in its order, float32; large enough that logits vary and norms matter."""
    random = np.random.default_rng(1)

    def numbers(*shape: int, around: float = 0.0) -> np.ndarray:
        return (around + 0.3 * random.standard_normal(shape)).astype(np.float32)

    found = {"model.embed_tokens.weight": numbers(ROWS, HIDDEN), "model.norm.weight": numbers(HIDDEN, around=1.0)}
    if not tied:
        found["lm_head.weight"] = numbers(ROWS, HIDDEN)
    for index in range(LAYERS):
        layer = f"model.layers.{index}"
        for name in ("input_layernorm", "post_attention_layernorm"):
            found[f"{layer}.{name}.weight"] = numbers(HIDDEN, around=1.0)
        for name, shape in (_JOINED if kind == "phi3" else _MATRICES).items():
            found[f"{layer}.{name}.weight"] = numbers(*shape)
        if kind == "qwen2" if biases is None else biases:
            for name in ("q", "k", "v") if kind == "qwen2" else ("q", "k", "v", "o"):
                rows = _MATRICES[f"self_attn.{name}_proj"][0]
                found[f"{layer}.self_attn.{name}_proj.bias"] = numbers(rows)
        if kind == "qwen3":
            found |= {f"{layer}.self_attn.{name}_norm.weight": numbers(HEAD_DIM, around=1.0) for name in "qk"}
    return found


def permuted(rows: np.ndarray, heads: int) -> np.ndarray:
    """`LlamaModel.permute` of llama.cpp's convert_hf_to_gguf.py."""
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def metadata_of(kind: str = "llama", pre: str = "smollm") -> dict[str, Any]:
    """Everything but general.architecture, which the writer adds."""
    shape = {
        "block_count": LAYERS, "context_length": CONTEXT, "embedding_length": HIDDEN, "feed_forward_length": INNER,
        "attention.head_count": HEADS, "attention.head_count_kv": KEY_VALUE_HEADS, "rope.freq_base": 5000.0,
        "attention.layer_norm_rms_epsilon": 1e-5, "vocab_size": ROWS, "rope.dimension_count": HEAD_DIM,
    }  # fmt: skip
    tokens, merges = vocabulary()
    kinds = [3 if token.startswith("<|") else 1 for token in tokens]
    return {
        **{f"{kind}.{key}": value for key, value in shape.items()},
        **({"qwen3.attention.key_length": HEAD_DIM} if kind == "qwen3" else {}),
        **(PHI3 if kind == "phi3" else {}),
        "general.license": "apache-2.0",
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": TEMPLATE,
    }


def vocabulary() -> tuple[list[str], list[str]]:
    """Tokens and merges of a small byte-level BPE."""
    with tempfile.TemporaryDirectory() as folder:
        train.save(train.train(TEXTS, 300), Path(folder))
        model = json.loads((Path(folder) / "tokenizer.json").read_text())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    return tokens, [" ".join(merge) for merge in model["merges"]]


def write_gguf(
    path: Path,
    kind: str = "llama",
    *,
    type: str = "Q4_1",
    embedding: str = "Q8_0",
    tensors: dict[str, np.ndarray] | None = None,
    changes: dict[str, Any] | None = None,
    without: tuple[str, ...] = (),
    extra: dict[str, np.ndarray] | None = None,
    blocks: dict[str, tuple[str, np.ndarray]] | None = None,
    architecture: str | None = None,
) -> Path:
    """tensors: Hugging Face's; `changes` of the metadata (None takes a key away); `without` and `extra` are GGUF's
    names of tensors; `blocks`: Hugging Face's name -> type and bytes [rows, bytes of a row] that are written as they
    are. Embedding Q8_0, matrices Q4_1, vectors F32 are what SmolLM2's file has."""
    tensors = huggingface_tensors(kind) if tensors is None else tensors
    writer = gguf.GGUFWriter(path, architecture or kind)
    for key, value in {**metadata_of(kind), **(changes or {})}.items():
        if value is not None:
            writer.add_key_value(key, value, *_types(value))
    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, kind.upper()), LAYERS)

    def placed(name: str, numbers: np.ndarray) -> tuple[str, np.ndarray]:
        theirs = str(names.get_name(name, try_suffixes=(".weight", ".bias")))
        heads = {"attn_q": HEADS, "attn_k": KEY_VALUE_HEADS}.get(theirs.split(".")[-2])
        return theirs, permuted(numbers, heads) if heads and kind == "llama" else numbers

    for name, numbers in tensors.items():
        theirs, rows = placed(name, numbers)
        if theirs not in without:
            _add(writer, theirs, rows, "F32" if rows.ndim == 1 else embedding if theirs.startswith("token") else type)
    for name, (own_type, content) in (blocks or {}).items():
        theirs, rows = placed(name, content)
        writer.add_tensor(theirs, rows, raw_dtype=gguf.GGMLQuantizationType[own_type])
    for name, numbers in (extra or {}).items():
        _add(writer, name, numbers, "F32")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: gguf.GGUFWriter, name: str, rows: np.ndarray, type: str) -> None:
    kind = gguf.GGMLQuantizationType[type]
    writer.add_tensor(name, gguf.quantize(rows, kind), raw_dtype=kind)


def _types(value: Any) -> tuple[gguf.GGUFValueType, gguf.GGUFValueType | None]:
    kinds = gguf.GGUFValueType
    single = {
        bool: kinds.BOOL,
        int: kinds.UINT32 if not isinstance(value, int) or value >= 0 else kinds.INT32,
        float: kinds.FLOAT32,
        str: kinds.STRING,
    }
    if isinstance(value, list):
        return kinds.ARRAY, kinds.INT32 if isinstance(value[0], int) else single[value[0].__class__]
    return single[value.__class__], None

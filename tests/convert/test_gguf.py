"""GGUF files of Llama's shape: converted, they are the model that transformers makes of the same file."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM

from hanbit.checkpoint.model_folder import load_model, read_config
from hanbit.common.errors import FormatError
from hanbit.convert.convert import convert
from hanbit.convert.logits import logits_of_ours
from hanbit.formats.gguf.blocks import read_blocks
from tests.convert.gguf_models import HEAD_DIM, HIDDEN, LAYERS, ROWS, huggingface_tensors, write_gguf

TOKENS = torch.randint(ROWS, (60,), generator=torch.Generator().manual_seed(4))


def theirs_of(path: Path, **config: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32, **config).eval()


def logits_of(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(TOKENS[None]).logits[0]


@pytest.mark.parametrize(
    ("kind", "type", "tied"),
    [
        ("llama", "Q4_1", True),
        ("llama", "F16", False),
        ("qwen2", "Q8_0", False),
        ("qwen3", "Q4_0", True),
        ("phi3", "Q4_1", False),
    ],
)
def test_logits_and_greedy_tokens_equal_transformers_reading_the_same_file(
    kind: str, type: str, tied: bool, tmp_path: Path
) -> None:
    path = write_gguf(tmp_path / "a.gguf", kind, type=type, tensors=huggingface_tensors(kind, tied=tied))
    made = convert(path, tmp_path / "ours")
    theirs = theirs_of(path, **({"head_dim": HEAD_DIM} if kind == "qwen3" else {}))  # it does not read key_length
    wanted = logits_of(theirs)
    assert wanted.std() > 0.5, "logits that hardly vary would prove nothing"
    torch.testing.assert_close(logits_of_ours(load_model(tmp_path / "ours"), TOKENS), wanted, rtol=1e-4, atol=1e-4)
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", dtype=torch.float32).eval()
    torch.testing.assert_close(logits_of(reloaded), wanted, rtol=1e-4, atol=1e-4)
    answers = [model.generate(TOKENS[None, :9], max_new_tokens=12, do_sample=False) for model in (theirs, reloaded)]
    assert torch.equal(*answers)
    assert made.proof is not None
    assert made.proof["logits_difference"] < 1e-4 * made.proof["largest_logit"]


@pytest.mark.parametrize(("rotated", "window"), [(HEAD_DIM, 0), (HEAD_DIM // 2, 2047)])
def test_phi3s_joined_matrices_keep_their_rows_and_a_part_of_a_head_may_be_rotated(
    rotated: int, window: int, tmp_path: Path
) -> None:
    """Against Phi3ForCausalLM with the numbers that gguf reads out of the file."""
    changes = {"phi3.rope.dimension_count": rotated, "phi3.attention.sliding_window": window}
    tensors = huggingface_tensors("phi3", tied=False)
    path = write_gguf(tmp_path / "a.gguf", "phi3", tensors=tensors, type="Q5_1", changes=changes)
    made = convert(path, tmp_path / "ours", keep_blocks=True)
    assert made.proof is not None
    kinds, found = {"Q5_1": 9, "Q8_0": 1}, read_blocks(tmp_path / "ours")
    assert {kind: sum(one.type == kind for one in found.values()) for kind in kinds} == kinds
    meant = {one.name: gguf.dequantize(one.data, one.tensor_type) for one in gguf.GGUFReader(path).tensors}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.PHI3, LAYERS)
    config = Phi3Config(
        vocab_size=ROWS, hidden_size=HIDDEN, intermediate_size=96, num_hidden_layers=LAYERS, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, rms_norm_eps=1e-5, sliding_window=None, pad_token_id=None,
        rope_parameters={"rope_type": "default", "rope_theta": 5000.0, "partial_rotary_factor": rotated / HEAD_DIM},
    )  # fmt: skip
    theirs = Phi3ForCausalLM(config).eval()
    theirs.load_state_dict(
        {name: torch.tensor(meant[str(names.get_name(name, try_suffixes=(".weight",)))]) for name in tensors}
    )
    wanted = logits_of(theirs)
    assert wanted.std() > 0.5
    torch.testing.assert_close(logits_of_ours(load_model(tmp_path / "ours"), TOKENS), wanted, rtol=1e-4, atol=1e-4)
    for name, one in found.items():
        assert np.array_equal(one.numbers().numpy(), meant[str(names.get_name(name, try_suffixes=(".weight",)))])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"phi3.rope.scaling.original_context_length": 64}, "=64 is not the context of 128: no stretch of it is built"),
        ({"phi3.attention.sliding_window": 100}, "is shorter than the context of 128"),
    ],
)
def test_phi3s_longer_contexts_and_windows_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "a.gguf", "phi3", tensors=huggingface_tensors("phi3", tied=False), changes=changes)
    with pytest.raises(FormatError, match=message):
        convert(path, tmp_path / "ours")


def test_tensors_are_the_sources_in_hugging_faces_order(tmp_path: Path) -> None:
    """F32 all through: nothing is rounded, so equality is exact. Biases of query and key are reordered, too."""
    tensors = huggingface_tensors(biases=True, tied=False)
    path = write_gguf(tmp_path / "a.gguf", type="F32", tensors=tensors)
    convert(path, tmp_path / "ours")
    found = load_file(tmp_path / "ours/model.safetensors")
    assert set(found) == set(tensors)
    for name, wanted in tensors.items():
        if name != "model.embed_tokens.weight":  # Q8_0
            assert torch.equal(found[name], torch.from_numpy(wanted)), name


def test_configuration_comes_out_of_the_metadata(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "a.gguf")
    convert(path, tmp_path / "ours", proof=False)
    config = read_config(tmp_path / "ours")
    assert config.model_dump(exclude_defaults=True) == {
        "family": "llama", "layers": LAYERS, "hidden": HIDDEN, "heads": 4, "key_value_heads": 2, "head_dim": HEAD_DIM,
        "inner": 96, "vocabulary": ROWS, "context": 128, "tied": True, "rotary_base": 5000.0,
    }  # fmt: skip
    written = json.loads((tmp_path / "ours/config.json").read_text())
    assert written["rms_norm_eps"] == 1e-5, "the makers' number, not float32's neighbour of it"
    generation = json.loads((tmp_path / "ours/generation_config.json").read_text())
    assert [generation[f"{role}_token_id"] for role in ("bos", "eos", "pad")] == [1, 2, 2]
    assert "license: apache-2.0" in (tmp_path / "ours/README.md").read_text()


@pytest.mark.parametrize(("dtype", "bits"), [("bfloat16", 8), ("float16", 11)])
def test_narrower_dtypes_are_the_rounded_numbers_and_the_proof_says_by_how_much(
    dtype: str, bits: int, tmp_path: Path
) -> None:
    path = write_gguf(tmp_path / "a.gguf", type="F32")
    made = convert(path, tmp_path / "ours", dtype=dtype)
    name = "model.layers.0.mlp.up_proj.weight"
    found = load_file(tmp_path / "ours/model.safetensors")[name]
    assert torch.equal(found, torch.from_numpy(huggingface_tensors()[name]).to(getattr(torch, dtype)))
    assert made.proof is not None
    assert 0 < made.proof["largest_rounding"] <= 2 * 2.0**-bits
    assert convert(write_gguf(tmp_path / "b.gguf"), tmp_path / "b").proof["largest_rounding"] == 0  # type: ignore[index]


def test_numbers_beyond_the_dtype_are_refused_by_tensor(tmp_path: Path) -> None:
    tensors = huggingface_tensors()
    tensors["model.norm.weight"][3] = 1e6
    path = write_gguf(tmp_path / "a.gguf", tensors=tensors)
    with pytest.raises(
        FormatError, match=r"output_norm.weight has numbers that torch.float16 does not hold.*try float32"
    ):
        convert(path, tmp_path / "ours", dtype="float16")
    tensors["model.norm.weight"][3] = np.nan
    with pytest.raises(
        FormatError,
        match=r"output_norm.weight has numbers that torch.float32 does not hold. The file is damaged: get it anew",
    ):
        convert(write_gguf(tmp_path / "b.gguf", tensors=tensors), tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def llama3_divisors(factor: float, base: float) -> np.ndarray:
    """`generate_extra_tensors` of llama.cpp's converter, by the defaults of Llama 3."""
    found = []
    for exponent in range(0, HEAD_DIM, 2):
        wave = 2 * np.pi * base ** (exponent / HEAD_DIM)
        if wave < 8192 / 4:
            found.append(1.0)
        elif wave > 8192 / 1:
            found.append(factor)
        else:
            smooth = (8192 / wave - 1) / (4 - 1)
            found.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(found, dtype=np.float32)


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama3s_stretch_is_recognised_by_its_divisors(factor: float, tmp_path: Path) -> None:
    divisors = llama3_divisors(factor, 500000.0)
    assert len(set(divisors.tolist())) > 2
    path = write_gguf(
        tmp_path / "a.gguf", extra={"rope_freqs.weight": divisors}, changes={"llama.rope.freq_base": 500000.0}
    )
    convert(path, tmp_path / "ours")
    scaling = read_config(tmp_path / "ours").rotary_scaling  # type: ignore[union-attr]
    assert scaling is not None
    assert (scaling.kind, scaling.factor, scaling.original_context) == ("llama3", factor, 8192)
    parameters = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": factor, "low_freq_factor": 1.0,
                  "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}  # fmt: skip
    config = LlamaConfig(
        vocab_size=ROWS, hidden_size=HIDDEN, intermediate_size=96, num_hidden_layers=LAYERS, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=True, rms_norm_eps=1e-5,
        rope_parameters=parameters,
    )  # fmt: skip
    theirs = LlamaForCausalLM(config).eval()
    theirs.load_state_dict(load_file(tmp_path / "ours/model.safetensors"), strict=False)
    theirs.tie_weights()
    torch.testing.assert_close(
        logits_of_ours(load_model(tmp_path / "ours"), TOKENS), logits_of(theirs), rtol=1e-4, atol=1e-4
    )


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"architecture": "falcon"}, "general.architecture='falcon' is not read here; llama, qwen2, qwen3, phi3 are"),
    ({"without": ("blk.1.ffn_up.weight",)}, "has no tensor blk.1.ffn_up.weight: it is not a whole model"),
    ({"without": ("token_embd.weight",)}, "has no tensor token_embd.weight"),
    ({"extra": {"blk.0.attn_sinks.weight": np.ones(4, np.float32)}}, "'blk.0.attn_sinks.weight' that this model"),
    ({"extra": {"rope_freqs.weight": np.full(8, 3.0, np.float32)}}, "not the stretch of Llama 3.1"),
    ({"extra": {"rope_freqs.weight": np.ones(5, np.float32)}}, "rope_freqs.weight must have 8 numbers"),
    ({"changes": {"llama.block_count": None}}, "has no llama.block_count"),
    ({"changes": {"llama.block_count": 0}}, "llama.block_count=0 must be from 1 to"),
    ({"changes": {"llama.block_count": 2**32 - 1}}, "llama.block_count=4294967295 must be from 1 to 20"),
    ({"changes": {"llama.block_count": 3}}, "has no tensor blk.2.attn_norm.weight"),
    ({"changes": {"llama.block_count": "2"}}, "llama.block_count='2' must be int"),
    ({"changes": {"llama.embedding_length": 2**30}}, "llama.embedding_length=1073741824 must be from 1 to 16777216"),
    ({"changes": {"llama.attention.head_count": 2**20}}, "does not divide llama.embedding_length=64"),
    ({"changes": {"llama.attention.head_count": [4, 4]}}, r"head_count=\(an array of 2\) must be int"),
    ({"changes": {"llama.attention.head_count_kv": 3}}, "head_count_kv=3 does not divide llama.attention.head_count=4"),
    ({"changes": {"llama.attention.key_length": 2**24, "llama.rope.dimension_count": None}}, "is beyond any model"),
    ({"changes": {"llama.rope.dimension_count": 8}}, "rope.dimension_count=8 is not the width of a head, 16"),
    ({"changes": {"llama.attention.layer_norm_rms_epsilon": -1.0}}, "epsilon=-1.0 must be a number above 0"),
    ({"changes": {"llama.rope.freq_base": float("nan")}}, "freq_base=nan must be a number above 0"),
    ({"changes": {"llama.rope.scaling.type": "yarn"}}, "rope.scaling.type='yarn' is not read from GGUF files"),
    ({"changes": {"llama.logit_scale": 2.0}}, "llama.logit_scale=2.0 is not built in hanbit"),
    ({"changes": {"llama.expert_count": 8}}, "expert_count=8 names a mixture of experts"),
    ({"changes": {"llama.vocab_size": 300}}, "vocab_size=300 is not the number of rows of token_embd.weight, 320"),
    ({"changes": {"llama.feed_forward_length": 64}}, r"ffn_gate.weight of shape \[96, 64\], .* ask for \[64, 64\]"),
    ({"changes": {"llama.attention.sliding_window": 16}}, "sliding_window=16 is shorter than the context of 128"),
]  # fmt: skip


@pytest.mark.parametrize(("spoilt", "message"), REFUSED, ids=lambda value: value[:50] if isinstance(value, str) else "")
def test_model_that_cannot_be_honoured_is_refused_by_name(spoilt: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "a.gguf", **spoilt)
    with pytest.raises(FormatError, match=message) as problem:
        convert(path, tmp_path / "ours")
    assert str(path) in str(problem.value)
    assert not (tmp_path / "ours").exists()


def test_linear_stretch_is_carried_over(tmp_path: Path) -> None:
    changes = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    convert(write_gguf(tmp_path / "a.gguf", changes=changes), tmp_path / "ours")
    scaling = read_config(tmp_path / "ours").rotary_scaling  # type: ignore[union-attr]
    assert scaling is not None
    assert (scaling.kind, scaling.factor) == ("linear", 4.0)


def test_names_are_those_of_llama_cpps_own_map(tmp_path: Path) -> None:
    """Every tensor name that the writer put there by the package's map is found by ours."""
    for kind in ("llama", "qwen2", "qwen3"):
        path = write_gguf(tmp_path / f"{kind}.gguf", kind, tensors=huggingface_tensors(kind, tied=False))
        made = convert(path, tmp_path / kind)
        assert made.proof is not None
        assert made.proof["tensors"] == len(gguf.GGUFReader(path).tensors)

"""A file of Q4_K, Q5_K and Q6_K blocks, as Q4_K_M and Q5_K_M have them, from the file to answers: beside transformers,
which gets the numbers that the package gguf reads out of the same bytes."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from transformers import LlamaConfig, LlamaForCausalLM

from hanbit import LLM, SamplingParams, convert
from hanbit.checkpoint.model_folder import load_model
from hanbit.engine.as_stored import load_as_stored
from hanbit.engine.fuse import fuse
from hanbit.engine.native import NativeLinear
from hanbit.kernels.blocks import Kind
from hanbit.kernels.library import native, why_not
from tests.convert.gguf_models import CONTEXT, HEADS, KEY_VALUE_HEADS, LAYERS, ROWS, write_gguf
from tests.engine.feeding import Rows, drawn, error_of, logits_of

HIDDEN, INNER, HEAD_DIM = 256, 512, 64  # rows of whole blocks of 256
MATRICES = {  # shape, and the type that a Q4_K_M file gives it, or a Q5_K_M file
    "self_attn.q_proj": ((HEADS * HEAD_DIM, HIDDEN), "Q4_K"),
    "self_attn.k_proj": ((KEY_VALUE_HEADS * HEAD_DIM, HIDDEN), "Q4_K"),
    "self_attn.v_proj": ((KEY_VALUE_HEADS * HEAD_DIM, HIDDEN), "Q6_K"),
    "self_attn.o_proj": ((HIDDEN, HEADS * HEAD_DIM), "Q4_K"),
    "mlp.gate_proj": ((INNER, HIDDEN), "Q5_K"),
    "mlp.up_proj": ((INNER, HIDDEN), "Q4_K"),
    "mlp.down_proj": ((HIDDEN, INNER), "Q6_K"),
}
needs_kernels = pytest.mark.skipif(native() is None, reason=f"native kernels: {why_not()}")


def random_blocks(shape: tuple[int, int], type: str, seed: int) -> np.ndarray:
    """uint8 [rows, bytes of a row]: any codes and inner scales, with outer ones that make numbers of about 0.1."""
    random = np.random.default_rng(seed)
    numbers, size = GGML_QUANT_SIZES[GGMLQuantizationType[type]]
    blocks = random.integers(0, 256, (shape[0], shape[1] // numbers, size), dtype=np.uint8)
    if type in ("Q4_K", "Q5_K"):  # scale and least scale come first
        scales = random.uniform(2e-4, 4e-4, (*blocks.shape[:2], 1)) * [1.0, 7.5 if type == "Q4_K" else 15.5]
        blocks[..., :4] = scales.astype("<f2").view(np.uint8)
    else:  # the scale comes last
        scales = random.uniform(6e-5, 9e-5, (*blocks.shape[:2], 1))
        blocks[..., -2:] = scales.astype("<f2").view(np.uint8)
    return blocks.reshape(shape[0], -1)


@pytest.fixture(scope="module")
def blocks() -> dict[str, tuple[str, np.ndarray]]:
    found = {"model.embed_tokens.weight": ("Q6_K", random_blocks((ROWS, HIDDEN), "Q6_K", 0))}
    for layer in range(LAYERS):
        for place, (name, (shape, type)) in enumerate(MATRICES.items(), 1):
            found[f"model.layers.{layer}.{name}.weight"] = (type, random_blocks(shape, type, 10 * layer + place))
    return found


@pytest.fixture(scope="module")
def norms() -> dict[str, np.ndarray]:
    random = np.random.default_rng(5)
    names = ["model.norm", *(f"model.layers.{layer}.{name}_layernorm" for layer in range(LAYERS)
                             for name in ("input", "post_attention"))]  # fmt: skip
    return {f"{name}.weight": random.uniform(0.5, 1.5, HIDDEN).astype(np.float32) for name in names}


@pytest.fixture(scope="module")
def folder(
    blocks: dict[str, tuple[str, np.ndarray]], norms: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("k_blocks")
    changes = {"embedding_length": HIDDEN, "feed_forward_length": INNER, "rope.dimension_count": HEAD_DIM}
    metadata = {f"llama.{key}": value for key, value in changes.items()}
    write_gguf(path / "a.gguf", tensors=norms, blocks=blocks, changes=metadata)
    made = convert(path / "a.gguf", path / "out", keep_blocks=True)
    assert made.proof is not None
    assert made.described.endswith("8 Q4_K + 5 F32 + 5 Q6_K + 2 Q5_K")
    return path / "out"


@pytest.fixture(scope="module")
def theirs(blocks: dict[str, tuple[str, np.ndarray]], norms: dict[str, np.ndarray]) -> LlamaForCausalLM:
    """With the numbers that gguf says these bytes are."""
    config = LlamaConfig(
        vocab_size=ROWS, hidden_size=HIDDEN, intermediate_size=INNER, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=KEY_VALUE_HEADS, max_position_embeddings=CONTEXT,
        rms_norm_eps=1e-5, rope_theta=5000.0, tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    tensors = {name: gguf.dequantize(rows, GGMLQuantizationType[type]) for name, (type, rows) in blocks.items()}
    assert all(0.02 < float(numbers.std()) < 0.5 for numbers in tensors.values())
    state = {name: torch.from_numpy(numbers) for name, numbers in {**tensors, **norms}.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], [])
    return model


def their_logits(model: LlamaForCausalLM) -> torch.Tensor:
    """Of the same prompt and tokens as `feeding.logits_of`; [7, vocabulary]."""
    with torch.no_grad():
        found: torch.Tensor = model(torch.tensor([drawn(26, ROWS)])).logits[0, 19:]
    return found


def test_the_float_path_has_the_logits_of_transformers(folder: Path, theirs: LlamaForCausalLM) -> None:
    wanted = their_logits(theirs)
    found = logits_of(Rows(fuse(load_model(folder)), 1, 32), ROWS, is_native=False)
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-4 * float(wanted.abs().max()))


@needs_kernels
def test_the_blocks_have_them_up_to_the_rounding_of_inputs(folder: Path, theirs: LlamaForCausalLM) -> None:
    model = fuse(load_as_stored(folder, with_blocks=True))
    layers = [layer for layer in model.modules() if isinstance(layer, NativeLinear)]
    kinds = [matrix.kind for layer in layers for matrix in layer.matrices]
    counts = [kinds.count(kind) for kind in (Kind.Q4_K, Kind.Q5_K, Kind.Q6_K)]
    assert counts == [4 * LAYERS, LAYERS, 2 * LAYERS + 1]
    assert len(kinds) == 7 * LAYERS + 1
    rows, wanted = Rows(model, 1, 32), their_logits(theirs)
    for is_native in (True, False):
        assert 0 < error_of(logits_of(rows, ROWS, is_native), wanted) < 0.05


@needs_kernels
@pytest.mark.parametrize("quantization", ["blocks", "none"])
def test_a_prompts_likelihoods_are_those_of_transformers(
    quantization: str, folder: Path, theirs: LlamaForCausalLM
) -> None:
    tokens = drawn(60, ROWS, seed=8)
    llm = LLM(folder, device="cpu", quantization=quantization)
    (output,) = llm.generate([tokens], SamplingParams(max_tokens=0, prompt_logprobs=0))
    found = torch.tensor([one.logprob for one in output.prompt_logprobs if one is not None])
    with torch.no_grad():
        chances = theirs(torch.tensor([tokens])).logits[0].log_softmax(-1)
    wanted = chances[range(59), tokens[1:]]
    gap = (found - wanted).abs()
    assert float(gap.max()) < (0.2 if quantization == "blocks" else 1e-4)
    assert float(gap.mean()) < (0.06 if quantization == "blocks" else 2e-5)

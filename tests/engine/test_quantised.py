"""Models computed with the quantised blocks of their folder, beside the float32 numbers that these stand for."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hanbit.checkpoint.model_folder import load_model
from hanbit.common.errors import FormatError, GenerationError, ModelError
from hanbit.convert.convert import convert
from hanbit.engine import as_stored
from hanbit.engine.as_stored import load_as_stored
from hanbit.engine.fuse import fuse
from hanbit.engine.llm import LLM
from hanbit.engine.native import NativeEmbedding, NativeLinear
from hanbit.engine.sampling_params import SamplingParams
from hanbit.formats.gguf.blocks import Blocks, read_blocks, write_blocks
from hanbit.kernels.blocks import Kind
from hanbit.kernels.library import native, why_not
from tests.convert.gguf_models import ROWS, huggingface_tensors, write_gguf
from tests.engine import feeding
from tests.engine.feeding import Rows, drawn, error_of
from tests.engine.test_adapters import write_adapter

pytestmark = pytest.mark.skipif(native() is None, reason=f"native kernels: {why_not()}")

GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)


def folder_of(path: Path, kind: str = "llama", **options: Any) -> Path:
    convert(write_gguf(path / "a.gguf", kind, **options), path / "out", keep_blocks=True, proof=False)
    return path / "out"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As SmolLM2's file: Q4_1, the tied embedding Q8_0."""
    return folder_of(tmp_path_factory.mktemp("quantised"))


def logits_of(rows: Rows, is_native: bool = True) -> torch.Tensor:
    return feeding.logits_of(rows, ROWS, is_native)


def rounded(numbers: torch.Tensor) -> torch.Tensor:
    """Each block of 32 to 255 numbers, as the kernels round a product's input; in torch."""
    blocks = numbers.unflatten(-1, (-1, 32))
    scale = blocks.abs().amax(-1, keepdim=True) / 127
    return ((blocks / scale.clamp(min=1e-30)).round() * scale).flatten(-2)


@pytest.fixture
def rounding(monkeypatch: pytest.MonkeyPatch) -> Callable[[Rows], torch.Tensor]:
    """Logits of a model of float32 whose products get rounded inputs."""
    exact = NativeLinear.forward

    def logits(runner: Rows) -> torch.Tensor:
        with monkeypatch.context() as patch:
            patch.setattr(NativeLinear, "forward", lambda self, hidden: exact(self, rounded(hidden)))
            return logits_of(runner, is_native=False)

    return logits


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("llama", {}),
        ("llama", {"type": "Q4_0", "embedding": "Q4_0"}),
        ("llama", {"tensors": huggingface_tensors(tied=False)}),
        ("qwen2", {"type": "Q8_0"}),
        ("llama", {"type": "Q5_0", "embedding": "Q5_0"}),
        ("llama", {"type": "Q5_1", "embedding": "Q5_1"}),
        ("qwen3", {}),
        ("phi3", {}),
    ],
)
def test_logits_differ_from_float32_as_rounded_inputs_do(
    kind: str, options: dict[str, Any], tmp_path: Path, rounding: Callable[[Rows], torch.Tensor]
) -> None:
    """A number halfway between two may be rounded either way, and these small peaked models make much of it: what is
    compared is how far rounding carries them from float32. Single products are exact (tests/kernels/test_blocks.py)."""
    folder = folder_of(tmp_path, kind, **options)
    exact, runner = Rows(fuse(load_model(folder)), 1, 32), Rows(fuse(load_as_stored(folder, True)), 1, 32)
    wanted, simulated = logits_of(exact), rounding(exact)
    assert runner.runner.step is not None
    for is_native in (True, False):
        found = logits_of(runner, is_native)
        assert error_of(found, wanted) < 1.5 * error_of(simulated, wanted)
        assert error_of(found, simulated) < 1.5 * error_of(simulated, wanted)


def test_logits_are_the_same_to_the_last_bit_however_a_prompt_is_cut_and_whatever_is_beside_it(folder: Path) -> None:
    """So an answer that was sent away and is read anew goes on as if it had stayed."""
    tokens, rows = drawn(60, ROWS), Rows(fuse(load_as_stored(folder, True)), 4, 64)
    wanted = rows.prefill(0, tokens, 0, 60)
    assert wanted is not None
    for row, cuts in enumerate([(1, 2, 30), (7, 59), tuple(range(1, 60))], start=1):
        for start, end in zip((0, *cuts), (*cuts, 60), strict=True):
            found = rows.feed([rows.part(0, tokens[::-1], 0, 1 + start % 9), rows.part(row, tokens[:end], start, end)])
        assert found[1] is not None
        assert torch.equal(found[1], wanted)


def test_blocks_of_a_type_that_the_kernels_lack_are_float32(tmp_path: Path) -> None:
    tensors = huggingface_tensors()
    strange = tensors.pop("model.layers.0.mlp.up_proj.weight")
    random = np.random.default_rng(0).integers(0, 256, (len(strange), strange.shape[1] // 32, 18), dtype=np.uint8)
    random[..., :2] = np.array([0.002], np.float16).view(np.uint8)
    blocks = {"model.layers.0.mlp.up_proj.weight": ("IQ4_NL", random.reshape(len(strange), -1))}
    folder = folder_of(tmp_path, type="F32", embedding="F32", tensors=tensors, blocks=blocks)
    exact, runner = Rows(fuse(load_model(folder)), 1, 32), Rows(fuse(load_as_stored(folder, True)), 1, 32)
    assert error_of(logits_of(runner), logits_of(exact)) < 1e-5


def test_the_blocks_themselves_are_multiplied(folder: Path) -> None:
    model = fuse(load_as_stored(folder, True))
    kinds = [matrix.kind for layer in model.modules() if isinstance(layer, NativeLinear) for matrix in layer.matrices]
    assert kinds.count(Kind.Q4_1) == 2 * 7
    assert kinds.count(Kind.Q8_0) == 1, "embedding and output are one"
    assert Kind.FLOAT32 not in kinds
    assert isinstance(model.embedding, NativeEmbedding)
    assert model.embedding.linear is model.output


def test_rows_answered_together_have_the_logits_they_have_alone(folder: Path) -> None:
    tokens, lengths, model = drawn(30, ROWS), [3, 17, 9], fuse(load_as_stored(folder, True))

    def read(runner: Rows, row: int, length: int) -> None:
        runner.prefill(row, tokens[:length], 0, length)

    together = Rows(model, 3, 32)
    for row, length in enumerate(lengths):
        read(together, row, length)
    found = together.decode([1, 2, 3], lengths)
    for row, length in enumerate(lengths):
        alone = Rows(model, 1, 32)
        read(alone, 0, length)
        assert torch.equal(found[row], alone.decode([row + 1], [length])[0])


def test_kept_blocks_are_used_unless_told_otherwise(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    def is_quantised(**options: Any) -> bool:
        return not LLM(folder, device="cpu", **options).model.output.is_float  # type: ignore[operator]

    assert is_quantised()
    assert is_quantised(quantization="blocks", dtype="float32")
    assert not is_quantised(quantization="none")
    assert not is_quantised(dtype="float32")


def test_answers_by_prompt_and_in_a_batch_are_the_same(folder: Path) -> None:
    llm = LLM(folder, device="cpu")
    prompts = [drawn(length, ROWS) for length in (4, 11, 7)]
    together = [output.token_ids for output in llm.generate(prompts, GREEDY)]
    assert together == [llm.generate([prompt], GREEDY)[0].token_ids for prompt in prompts]


def test_without_kernels_the_numbers_are_computed_with_and_that_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(as_stored, "native", lambda: None)
    with caplog.at_level(logging.WARNING):
        llm = LLM(folder, device="cpu")
    assert llm.model.output.is_float
    assert "quantised weights become float32" in caplog.text


def test_what_cannot_be_had_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(GenerationError, match="quantization='int3' must be auto, none, blocks"):
        LLM(folder, device="cpu", quantization="int3")
    with pytest.raises(GenerationError, match="quantization=blocks computes in float32 on a CPU; dtype='bfloat16'"):
        LLM(folder, device="cpu", quantization="blocks", dtype="bfloat16")
    convert(write_gguf(tmp_path / "a.gguf"), tmp_path / "plain", proof=False)
    with pytest.raises(FormatError, match=r"plain has no model.blocks. Make it with `hanbit convert .* --keep-blocks`"):
        LLM(tmp_path / "plain", device="cpu", quantization="blocks")


def test_blocks_that_are_not_this_models_are_refused_by_name(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    whole = read_blocks(folder)
    (folder / "hanbit.json").unlink()  # else the changed file is refused before anything is looked at
    query = "model.layers.0.self_attn.q_proj.weight"
    data, odd = whole[query].data.clone(), Blocks("Q4_1", (64, 64), whole[query].data.clone())
    data[5, 0:2] = torch.tensor([0x00, 0x7E], dtype=torch.uint8)  # NaN
    wrong: list[tuple[dict[str, Blocks], str]] = [
        ({"model.layers.7.self_attn.q_proj.weight": odd}, "layers.7.self_attn.q_proj.weight', which is no"),
        ({"model.norm.weight": odd}, "norm.weight', which is no matrix"),
        ({query: Blocks("Q4_1", (63, 64), data[:63].clone())}, r"q_proj.weight has shape \[63, 64\], config.json"),
        ({query: Blocks("Q4_1", (64, 64), data)}, "q_proj.weight: a scale is not a finite number"),
    ]
    for changed, message in wrong:
        write_blocks(folder, {**whole, **changed})
        with pytest.raises(FormatError, match=message):
            LLM(folder, device="cpu")


def test_blocks_beside_a_missing_tensor_do_not_hide_it(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    (folder / "hanbit.json").unlink()
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="up_proj"):
        LLM(folder, device="cpu")


def test_adapter_on_a_quantised_model_changes_it_as_the_exact_one(folder: Path, tmp_path: Path) -> None:
    """Two switches together: LoRA beside quantised weights, in PyTorch's path, in a batch with a row without it."""
    write_adapter(folder, tmp_path, 4, ["q_proj", "down_proj"])

    def logits(quantization: str) -> torch.Tensor:
        llm = LLM(folder, device="cpu", quantization=quantization)
        llm.add_adapter("a", tmp_path)
        adapter, runner = llm.joined_adapters["a"], Rows(llm.model, 2, 32)
        for row, one in enumerate((adapter, None)):
            runner.prefill(row, drawn(9, ROWS), 0, 9, one)
        return runner.decode([5, 5], [9, 9], [adapter, None])

    found, exact = logits("blocks"), logits("none")
    for row in range(2):
        assert error_of(found[row], exact[row]) < 0.2 < 0.4 < error_of(exact[0], exact[1]), "rounding, and the adapter"

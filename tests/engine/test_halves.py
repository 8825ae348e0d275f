"""Models whose matrices stay in 16 bits beside the same numbers as float32."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hanbit.common.errors import ModelError
from hanbit.engine.llm import LLM
from hanbit.engine.native import NativeLinear, weight_bytes
from hanbit.engine.sampling_params import SamplingParams
from hanbit.kernels.library import native, why_not
from tests.engine.feeding import Rows, drawn
from tests.engine.folders import VOCABULARY, theirs_of
from tests.engine.test_adapters import write_adapter
from tests.models.shapes import CONFIGS

pytestmark = pytest.mark.skipif(native() is None, reason=f"native kernels: {why_not()}")

GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def in_halves(folder: Path, path: Path, dtype: torch.dtype) -> Path:
    """A copy with all of its tensors so."""
    path.mkdir()
    for file in folder.iterdir():
        if file.suffix != ".safetensors":
            (path / file.name).write_bytes(file.read_bytes())
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    return path


def logits_of(llm: LLM, tokens: list[int], cuts: tuple[int, ...]) -> torch.Tensor:
    rows, ends = Rows(llm.model, 1, len(tokens)), (*cuts, len(tokens))
    found = [rows.prefill(0, tokens[:end], start, end) for start, end in zip((0, *cuts), ends, strict=True)]
    return torch.stack([one for one in found if one is not None])


@pytest.mark.parametrize("name", list(CONFIGS))
@pytest.mark.parametrize("half", HALVES)
def test_logits_of_every_family_are_those_of_transformers(name: str, half: str, folder_of: Any, tmp_path: Path) -> None:
    """Read in one go, in pieces, and token by token."""
    folder = in_halves(folder_of(name), tmp_path / "half", HALVES[half])
    llm, theirs, tokens = LLM(folder, device="cpu"), theirs_of(folder), drawn(60, VOCABULARY)
    cuts = (5, 50, 51, 52)
    wanted = theirs(torch.tensor([tokens])).logits[0, [cut - 1 for cut in (*cuts, len(tokens))]]
    torch.testing.assert_close(logits_of(llm, tokens, cuts), wanted.detach(), rtol=1e-4, atol=1e-4)


def test_matrices_stay_in_their_16_bits_and_give_what_they_give_as_float32(folder_of: Any, tmp_path: Path) -> None:
    for name in ("llama", "llama tied, one key head, base 500000"):
        folder = in_halves(folder_of(name), tmp_path / name, torch.bfloat16)
        kept, wide = LLM(folder, device="cpu"), LLM(folder, device="cpu", dtype="float32")
        assert 2 * weight_bytes(kept.model) == weight_bytes(wide.model)
        layers = [module for module in kept.model.modules() if isinstance(module, NativeLinear)]
        assert {matrix.data.dtype for layer in layers for matrix in layer.matrices} == {torch.bfloat16}
        tokens, cuts = drawn(30, VOCABULARY), (9, 10, 11, 12)
        assert torch.equal(logits_of(kept, tokens, cuts), logits_of(wide, tokens, cuts))
        prompts = ["The quick brown", "대한민국은"]
        assert kept.generate(prompts, GREEDY) == wide.generate(prompts, GREEDY)


def test_long_prompts_take_another_way_to_the_same_numbers(folder_of: Any, tmp_path: Path) -> None:
    folder = in_halves(folder_of("llama"), tmp_path / "half", torch.bfloat16)
    llm, tokens = LLM(folder, device="cpu"), drawn(128, VOCABULARY)
    step = Rows(llm.model, 1, 128).runner.step
    assert step is not None
    assert step.takes(60)
    assert not step.takes(128)
    torch.testing.assert_close(logits_of(llm, tokens, ())[0], logits_of(llm, tokens, (64,))[-1], rtol=1e-4, atol=1e-4)


def test_an_adapter_is_added_to_matrices_of_16_bits(folder_of: Any, tmp_path: Path) -> None:
    folder = in_halves(folder_of("llama"), tmp_path / "half", torch.bfloat16)
    kept, wide = LLM(folder, device="cpu"), LLM(folder, device="cpu", dtype="float32")
    write_adapter(folder, tmp_path / "adapter", 1, ["q_proj", "down_proj"])
    for llm in (kept, wide):
        llm.add_adapter("a", tmp_path / "adapter")
    found = [llm.generate(["The quick"], GREEDY, adapter="a") for llm in (kept, wide)]
    assert found[0] == found[1] != kept.generate(["The quick"], GREEDY)


def test_no_number_is_refused_by_its_tensors_name(folder_of: Any, tmp_path: Path) -> None:
    folder = in_halves(folder_of("llama"), tmp_path / "half", torch.bfloat16)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = float("nan")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.up_proj\.weight has numbers that are NaN"):
        LLM(folder, device="cpu")

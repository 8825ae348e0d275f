"""Predictions compared over a text: ours with transformers' in the peer's place, and a likeness by hand."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from hanbit.bench import perplexity
from hanbit.bench.likeness import Likeness, log_probabilities
from hanbit.bench.llama_cpp import LlamaCpp
from hanbit.bench.llama_logits import Windows
from hanbit.bench.perplexity import Plan, measure, table
from hanbit.common.errors import DataError
from hanbit.convert.convert import convert
from hanbit.engine.llm import LLM
from hanbit.kernels.library import native, why_not
from tests.convert.gguf_models import ROWS, write_gguf
from tests.engine.folders import theirs_of

needs_native = pytest.mark.skipif(native() is None, reason=f"native kernels: {why_not()}")
CONTEXT = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("perplexity")
    convert(write_gguf(path / "a.gguf"), path / "out", keep_blocks=True, proof=False)
    return path / "out"


def tokens_of(windows: int) -> np.ndarray:
    return np.random.default_rng(2).integers(0, ROWS, (windows, CONTEXT))


def of_transformers(folder: Path, tokens: np.ndarray) -> Windows:
    """As llama.cpp tells them."""
    with torch.no_grad():
        logits = theirs_of(folder)(torch.from_numpy(tokens)).logits
    return Windows(tokens, logits.log_softmax(-1)[:, CONTEXT // 2 : -1].numpy())


def test_tokens_fed_one_at_a_time_are_predicted_as_transformers_predicts_them(folder: Path) -> None:
    windows = of_transformers(folder, tokens_of(1))
    llm = LLM(folder, device="cpu", quantization="none")
    found = log_probabilities(llm, windows.tokens[0].tolist(), windows.first)
    torch.testing.assert_close(found, torch.from_numpy(windows.log_probabilities[0]), atol=1e-4, rtol=1e-4)


def test_a_likeness_by_hand() -> None:
    base = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]).log()
    own = torch.tensor([[0.25, 0.5, 0.25], [0.1, 0.8, 0.1]]).log()
    found = Likeness("own")
    found.add(base[:1], own[:1], torch.tensor([2]))
    found.add(base[1:], own[1:], torch.tensor([1]))
    assert found.positions == 2
    assert found.same_first == 0.5
    assert found.perplexity == pytest.approx(1 / math.sqrt(0.25 * 0.8))
    assert found.divergence == pytest.approx((0.5 * math.log(2) - 0.25 * math.log(2)) / 2)
    assert found.largest_gap == pytest.approx(math.log(2))


def test_what_a_base_does_not_tell_is_left_out() -> None:
    """llama.cpp tells of a token that is very unlikely only that it is."""
    base, own = torch.tensor([[-1e-7, -16.5]]), torch.tensor([[-1e-7, -40.0]])
    found = Likeness("own")
    found.add(base, own, torch.tensor([0]))
    assert abs(found.divergence) < 1e-6


@needs_native
def test_blocks_stand_between_float32_and_another_engine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other is transformers with the file's float32 numbers: as near to ours as sums in another order are."""
    windows = of_transformers(folder, tokens_of(2))
    monkeypatch.setattr(LlamaCpp, "logits", lambda *_: windows)
    plan = Plan(folder, Path("a.gguf"), LlamaCpp(Path("nowhere"), 1), context=CONTEXT, windows=2)
    exact, blocks, theirs = table(measure(plan, lambda _: None))
    assert [row["name"] for row in (exact, blocks, theirs)] == ["float32", "hanbit", "llama.cpp"]
    assert exact["tokens"] == 2 * (CONTEXT - 1 - CONTEXT // 2)
    assert exact["divergence_nats"] == 0
    assert abs(float(theirs["divergence_nats"])) < 1e-5 < float(blocks["divergence_nats"])
    assert theirs["perplexity"] == pytest.approx(exact["perplexity"], rel=1e-4)
    assert theirs["same_likeliest_percent"] == 100


def test_without_a_peer_the_text_is_cut_by_our_tokenizer_and_must_be_long_enough(folder: Path, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 8)
    rows = measure(Plan(folder, text=text, context=CONTEXT, windows=2), lambda _: None)
    assert [row.name for row in rows] == ["float32", "hanbit"]
    with pytest.raises(DataError, match=r"text has \d+ tokens, 99 windows of 12 need 1188"):
        measure(Plan(folder, text=text, context=CONTEXT, windows=99), lambda _: None)


def test_a_begin_token_stands_first_where_the_model_has_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    llm, windows = LLM(folder, device="cpu"), Windows(tokens_of(1), np.zeros((1, 5, ROWS), np.float32))
    assert perplexity.with_begin(llm, windows).tolist() == windows.tokens.tolist()
    monkeypatch.setattr(type(llm.tokenizer), "encode", lambda *_: [1])
    assert perplexity.with_begin(llm, windows)[0].tolist() == [1, *windows.tokens[0, 1:].tolist()]

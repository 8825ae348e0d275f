"""llama.cpp's programs are asked as they expect it, their answers are read, and what is missing or fails is said."""

import struct
from pathlib import Path

import numpy as np
import pytest

from hanbit.bench.llama_cpp import BATCHED, BENCH, PERPLEXITY, QUANTIZE, LlamaCpp
from hanbit.bench.llama_logits import read
from hanbit.common.errors import ConfigError, FormatError, LaunchError
from tests.bench.llama_programs import write_program

CONTEXT, VOCABULARY, WINDOWS = 8, 7, 2


def levels_of(logits: list[float]) -> bytes:
    """A row as `log_softmax` of tools/perplexity/perplexity.cpp writes it, in a plain loop."""
    largest = max(logits)
    least = max(min(logits), largest - 16)
    log_sum = float(np.log(sum(np.exp(one - largest) for one in logits)))
    scale = (largest - least) / 65535
    numbers = [round((one - least) / scale) if one > least else 0 for one in logits]
    return struct.pack("<ff", scale, least - largest - log_sum) + struct.pack(f"<{len(logits)}H", *numbers)


def write_logits(path: Path, logits: np.ndarray, tokens: np.ndarray) -> None:
    windows, context = tokens.shape
    content = b"_logits_" + struct.pack("<3i", context, logits.shape[-1], windows) + tokens.astype("<i4").tobytes()
    for row in logits.reshape(-1, logits.shape[-1]):
        content += levels_of(row.tolist()) + b"\0\0" * (len(row) % 2)
    path.write_bytes(content)


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    logits = 4 * random.standard_normal((WINDOWS, CONTEXT - 1 - CONTEXT // 2, VOCABULARY))
    logits[0, 0, 3] = -40.0  # beyond what the file tells
    tokens = random.integers(0, VOCABULARY, (WINDOWS, CONTEXT))
    write_logits(tmp_path / "kept", logits, tokens)
    return tmp_path / "kept", logits, tokens


def test_a_file_of_logits_is_read_to_its_rounding(written: tuple[Path, np.ndarray, np.ndarray]) -> None:
    path, logits, tokens = written
    found = read(path)
    assert found.first == CONTEXT // 2
    np.testing.assert_array_equal(found.tokens, tokens)
    wanted = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    wanted[0, 0, 3] = logits[0, 0].max() - 16 - np.log(np.exp(logits[0, 0]).sum())
    np.testing.assert_allclose(found.log_probabilities, wanted, atol=16 / 65535)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-2], "bytes, its header says"),
        (lambda data: data[:12], "is no file of logits"),
        (lambda data: b"GGUF" + data[4:], "is no file of logits"),
        (lambda data: data[:8] + b"\xff\xff\xff\xff" + data[12:], "says context -1"),
    ],
    ids=["cut", "header", "other", "negative"],
)
def test_a_file_that_is_not_whole_is_refused(
    written: tuple[Path, np.ndarray, np.ndarray],
    change,  # type: ignore[no-untyped-def]
    message: str,
) -> None:
    path = written[0]
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(FormatError, match=message):
        read(path)


def test_a_program_that_is_missing_or_cannot_be_run_is_named_with_the_way_out(tmp_path: Path) -> None:
    write_program(tmp_path, BENCH, "")
    (tmp_path / BATCHED).write_text("")
    peer = LlamaCpp(tmp_path, 1)
    peer.require(BENCH)
    for name in (BATCHED, PERPLEXITY):
        with pytest.raises(ConfigError, match=rf"{name} is not a program that can be run. Build them .*peer-path"):
            peer.require(BENCH, name)


def test_a_program_that_fails_is_told_with_its_last_words(tmp_path: Path) -> None:
    write_program(tmp_path, QUANTIZE, "sys.exit('no such type: ' + argv[3])")
    with pytest.raises(
        LaunchError, match=r"(?s)llama-quantize --allow-requantize .* ended with 1:.*no such type: Q9_9"
    ):
        LlamaCpp(tmp_path, 1).quantised(tmp_path / "a.gguf", "Q9_9", tmp_path)


def test_logits_are_asked_for_over_the_windows_and_a_short_text_is_said(
    tmp_path: Path, written: tuple[Path, np.ndarray, np.ndarray]
) -> None:
    check = f"assert value('-c') == value('-b') == '{CONTEXT}' and value('-t') == '3' and value('-f') == 'text'"
    copy = f"import shutil\nshutil.copyfile({str(written[0])!r}, value('--kl-divergence-base'))"
    write_program(tmp_path, PERPLEXITY, f"{check}\n{copy}")
    peer = LlamaCpp(tmp_path, 3)
    assert len(peer.logits(Path("a.gguf"), Path("text"), CONTEXT, WINDOWS, tmp_path).tokens) == WINDOWS
    with pytest.raises(LaunchError, match="text has 2 windows of 8 tokens, not 5"):
        peer.logits(Path("a.gguf"), Path("text"), CONTEXT, 5, tmp_path)


def test_the_batched_bench_has_room_for_all_and_its_line_is_found(tmp_path: Path) -> None:
    line = "{'n_kv_max': int(value('-c')), 'speed': 3.0, 'speed_pp': 2.0, 'speed_tg': float(value('-npl'))}"
    write_program(tmp_path, BATCHED, f"print('talk')\nprint(json.dumps({line}))\nassert value('-c') == '80'")
    assert LlamaCpp(tmp_path, 1).batched(Path("a.gguf"), 6, 4, 8) == {"speed": 3.0, "speed_pp": 2.0, "speed_tg": 8.0}
    write_program(tmp_path, BATCHED, "print('nothing')")
    with pytest.raises(LaunchError, match="ended without a result"):
        LlamaCpp(tmp_path, 1).batched(Path("a.gguf"), 6, 4, 8)

"""Whole steps by the native kernels beside the PyTorch path of the same engine, on the same cache."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hanbit.checkpoint.model_folder import load_model
from hanbit.engine import native_step
from hanbit.engine.fuse import fuse
from hanbit.engine.llm import LLM
from hanbit.engine.sampling_params import SamplingParams
from hanbit.kernels.library import MOST_ROWS, native, why_not
from tests.engine.conftest import Folder
from tests.engine.feeding import Rows
from tests.engine.folders import VOCABULARY
from tests.models.shapes import CONFIGS

pytestmark = pytest.mark.skipif(native() is None, reason=f"native kernels: {why_not()}")

OTHERS = ("gpt2", "mixtral", "qwen3_moe", "neox", "gptj", "phi ", "phi,", "opt", "bloom", "gemma", "exaone")
STEPPED = [name for name in CONFIGS if not f"{name} ".startswith(OTHERS)]


def tokens_of(length: int) -> list[int]:
    return torch.randint(VOCABULARY, (length,), generator=torch.Generator().manual_seed(9)).tolist()


def runner_of(folder: Path, rows: int, lengths: list[int], tokens: list[int], is_native: bool = True) -> Rows:
    runner = Rows(fuse(load_model(folder)), rows, 64)
    runner.runner.step = runner.runner.step if is_native else None
    for row, length in enumerate(lengths):
        runner.prefill(row, tokens[:length], 0, length)
    return runner


def by_torch(rows: Rows, tokens: list[int], positions: list[int]) -> torch.Tensor:
    step, rows.runner.step = rows.runner.step, None
    logits = rows.decode(tokens, positions)
    rows.runner.step = step
    return logits


def assert_same_logits(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """To 1e-5 of each row's largest: what float32 gives when sums are taken in another order."""
    largest = wanted.abs().amax(dim=-1, keepdim=True)
    torch.testing.assert_close(found / largest, wanted / largest, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", STEPPED)
@pytest.mark.parametrize(("rows", "threads"), [(1, 1), (3, 2), (MOST_ROWS, 2), (11, 2)])
def test_logits_are_those_of_pytorch(
    name: str, rows: int, threads: int, folder_of: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens, lengths = tokens_of(60), [3 + 4 * row for row in range(rows)]
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    ours, theirs = (runner_of(folder_of(name), rows, lengths, tokens, is_native) for is_native in (True, False))
    for step in range(10):
        places = [length + step for length in lengths]
        fed = [tokens[place] for place in places]
        assert_same_logits(ours.decode(fed, places), theirs.decode(fed, places))


@pytest.mark.parametrize("name", STEPPED)
def test_logits_of_prompts_are_those_of_pytorch(name: str, folder_of: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few rows, many, and more than go through the layers together; with single tokens of others in the same step."""
    monkeypatch.setattr(native_step, "_SHORT", 1000)
    tokens, model = tokens_of(400), fuse(load_model(folder_of(name)))
    ours, theirs = Rows(model, 4, 400), Rows(model, 4, 400)
    theirs.runner.step = None
    for row, (start, end) in enumerate([(0, 3), (0, 12), (0, 290), (0, 1)]):
        assert_same_logits(fed(ours, row, tokens, start, end), fed(theirs, row, tokens, start, end))
    steps = [(0, 3, 4), (1, 12, 13), (2, 290, 400), (3, 1, 30)]
    together = ours.feed([ours.part(row, tokens[:end], start, end) for row, start, end in steps])
    for (row, start, end), found in zip(steps, together, strict=True):
        assert found is not None
        assert_same_logits(found, fed(theirs, row, tokens, start, end))


def fed(rows: Rows, row: int, tokens: list[int], start: int, end: int) -> torch.Tensor:
    found = rows.prefill(row, tokens[:end], start, end)
    assert found is not None
    return found


@pytest.mark.parametrize("threads", [1, 3])
def test_logits_are_the_same_to_the_last_bit_however_a_prompt_is_cut_and_whatever_is_beside_it(
    folder: Path, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(native_step, "_SHORT", 1000)
    tokens, model = tokens_of(300), fuse(load_model(folder))
    rows = Rows(model, 8, 300)
    wanted = fed(rows, 0, tokens, 0, 300)
    for row, cuts in enumerate([(1, 2, 3), (4,), (5, 130, 299), (257,), (16, 17, 272), tuple(range(1, 300))], start=1):
        starts = (0, *cuts)
        for start, end in zip(starts, cuts, strict=False):
            rows.feed([rows.part(row, tokens, start, end), rows.part(7, tokens[::-1], 0, 1 + start % 9)])
        assert torch.equal(fed(rows, row, tokens, starts[-1], 300), wanted)


def test_rows_answered_together_have_the_logits_they_have_alone(folder: Path) -> None:
    tokens, lengths = tokens_of(60), [3, 20, 41]
    for count in (3, 12):
        places = [lengths[row % 3] for row in range(count)]
        together = runner_of(folder, count, places, tokens).decode([*range(1, count + 1)], places)
        for row, length in enumerate(places):
            alone = runner_of(folder, 1, [length], tokens).decode([row + 1], [length])
            assert torch.equal(together[row], alone[0])


def test_logits_of_any_rows_can_be_had(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a prompt's inner tokens too, of several tiles of rows."""
    monkeypatch.setattr(native_step, "_SHORT", 1000)
    tokens, rows = tokens_of(300), Rows(fuse(load_model(folder)), 2, 300)
    table = rows.part(0, tokens, 0, 300).blocks
    assert rows.runner.step is not None
    places = [0, 3, 254, 255, 256, 299]
    found = rows.runner.step(tokens, range(300), [table] * 300, places)
    assert found.shape == (6, VOCABULARY)
    for place, logits in zip(places, found, strict=True):
        assert torch.equal(fed(rows, 1, tokens, 0, place + 1), logits)
    assert rows.runner.step(tokens, range(300), [table] * 300, []).shape == (0, VOCABULARY)


def test_steps_of_both_kinds_follow_each_other_on_one_cache(folder: Path) -> None:
    tokens, lengths = tokens_of(60), [4, 11]
    mixed, plain = (runner_of(folder, 2, lengths, tokens) for _ in range(2))
    for step in range(12):
        places = [length + step for length in lengths]
        fed = [tokens[place] for place in places]
        found = mixed.decode(fed, places) if step % 3 else by_torch(mixed, fed, places)
        assert_same_logits(found, by_torch(plain, fed, places))


def test_sequences_longer_than_one_part_and_the_first_angles(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_step, "_FIRST_ANGLES", 16)
    model, tokens = fuse(load_model(folder)), tokens_of(320)
    ours, theirs = Rows(model, 2, 320), Rows(model, 2, 320)
    for runner in (ours, theirs):
        runner.prefill(0, tokens[:300], 0, 300)
        runner.prefill(1, tokens[:7], 0, 7)
    for step in range(5):
        fed, places = [tokens[300 + step], tokens[7 + step]], [300 + step, 7 + step]
        assert_same_logits(ours.decode(fed, places), by_torch(theirs, fed, places))


def test_every_family_that_is_not_llama_keeps_its_own_step(folder_of: Folder) -> None:
    for name in ("gpt2", "mixtral"):
        assert Rows(fuse(load_model(folder_of(name))), 1, 8).runner.step is None


def test_tied_embedding_shares_the_memory_of_the_output(folder_of: Folder) -> None:
    model = fuse(load_model(folder_of("qwen2 tied")))
    assert model.embedding.weight.data_ptr() == model.output.weight.data_ptr()


def test_damaged_weights_give_no_numbers(folder: Path) -> None:
    model = fuse(load_model(folder))
    model.layers["1"].mlp_norm.weight[3] = float("nan")
    runner = Rows(model, 1, 8)
    runner.prefill(0, [1, 2], 0, 2)
    assert runner.decode([3], [2]).isnan().any()


def test_torchs_default_dtype_changes_nothing(folder: Path) -> None:
    wanted = runner_of(folder, 1, [5], tokens_of(60)).decode([3], [5])
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = runner_of(folder, 1, [5], tokens_of(60)).decode([3], [5])
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.dtype == torch.float32
    assert_same_logits(found, wanted)


def test_a_process_may_end_while_a_thread_of_it_is_in_a_step(folder: Path) -> None:
    code = """
import ctypes, sys, threading
from array import array
from hanbit.checkpoint.model_folder import load_model
from hanbit.engine.fuse import fuse
from hanbit.engine.runner import Runner

step, has_begun = Runner(fuse(load_model(sys.argv[1])), 512, 16).step, threading.Event()
table = array("i", range(512))
logits = step([1] * 8, [8000] * 8, [table] * 8, range(8))
numbers = ctypes.c_int64 * 8
tokens, positions, wanted = numbers(*[1] * 8), numbers(*[8000] * 8), numbers(*range(8))
tables = (ctypes.c_void_p * 8)(*[table.buffer_info()[0]] * 8)

def answer():  # no torch: its own calls do not survive the end of a process in a daemon thread
    while True:
        step._kernels.library.hanbit_step_run(step._step, tokens, positions, tables, 8, wanted, 8, logits.data_ptr(), 1)
        has_begun.set()

threading.Thread(target=answer, daemon=True).start()
assert has_begun.wait(60)
"""
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads how much memory a process has from Linux")
def test_threads_that_the_machine_refuses_are_done_without(folder: Path) -> None:
    code = """
import resource, sys
import torch
from hanbit.checkpoint.model_folder import load_model
from hanbit.engine.fuse import fuse
from tests.engine.feeding import Rows

runner = Rows(fuse(load_model(sys.argv[1])), 1, 8)
alone = runner.decode([1], [0])
torch.get_num_threads = lambda: 64
with open("/proc/self/statm") as file:
    room = int(file.read().split()[0]) * resource.getpagesize() + (30 << 20)  # for three threads' stacks
resource.setrlimit(resource.RLIMIT_AS, (room, room))
assert torch.equal(runner.decode([1], [0]), alone)
"""
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_greedy_tokens_without_the_kernels_are_the_same(folder: Path, llm: LLM) -> None:
    code = """
import sys
from hanbit.engine.llm import LLM
from hanbit.engine.sampling_params import SamplingParams
from hanbit.kernels.library import native

assert native() is None
llm = LLM(sys.argv[1], device="cpu")
print(*llm.generate([[5, 6, 7]], SamplingParams(temperature=0, max_tokens=40))[0].token_ids)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        env={**os.environ, "HANBIT_NATIVE": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    ours = llm.generate([[5, 6, 7]], SamplingParams(temperature=0, max_tokens=40))[0]
    assert list(map(int, done.stdout.split())) == list(ours.token_ids)

"""`hanbit bench generate --peer llama.cpp`: the same GGUF file on both sides, taking turns.

Each file is first read by both over one text: only where they predict alike is there a ratio. Decoding is
`new_tokens - 1` tokens behind a prompt and a first token; ours includes choosing the likeliest, llama-bench feeds
random ones.
"""

import json
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from hanbit.bench.generate import WARM_UP, windows_of_topics
from hanbit.bench.likeness import Likeness, log_probabilities
from hanbit.bench.llama_cpp import BENCH, PERPLEXITY, QUANTIZE, LlamaCpp
from hanbit.bench.perplexity import with_begin, written_topics
from hanbit.bench.turns import Contestant, ratios, take_turns_telling
from hanbit.common.errors import LaunchError
from hanbit.convert.convert import convert
from hanbit.engine.llm import LLM

Say = Callable[[str], None]
_CHECKED = (2, 256)  # windows and their tokens, half of them predicted
_LARGEST_DIVERGENCE = 0.05  # nats; rounding inputs to 8 bits gives below 0.01, another model whole nats


@dataclass(frozen=True)
class Plan:
    """`types`: ggml's names of the blocks that llama.cpp makes of `file` for further comparisons."""

    file: Path
    peer: LlamaCpp
    types: tuple[str, ...] = ()
    prompt_tokens: int = 128
    new_tokens: int = 128
    prefill_tokens: int = 512
    rounds: int = 7


@dataclass(frozen=True)
class Row:
    """`contestants`: hanbit, llama.cpp; `tokens` that each of their turns took."""

    file: str
    work: str
    tokens: int
    contestants: tuple[Contestant, Contestant]
    likeness: Likeness

    def facts(self) -> dict[str, float | str]:
        ours, theirs = self.contestants
        faster = sorted(ratios(ours, theirs))
        return {
            "file": self.file,
            "work": self.work,
            "hanbit_tokens_per_second": round(self.tokens / ours.median, 1),
            "peer_tokens_per_second": round(self.tokens / theirs.median, 1),
            "hanbit_over_it": round(float(np.median(faster)), 3),
            "lowest": round(faster[0], 3),
            "highest": round(faster[-1], 3),
            "tokens_checked": self.likeness.positions,
            "same_likeliest_percent": round(100 * self.likeness.same_first, 1),
            "divergence_nats": round(self.likeness.divergence, 5),
        }


def measure(plan: Plan, say: Say) -> list[Row]:
    """Two rows a file: decoding and reading a prompt. Raises ConfigError if a program is missing, LaunchError if the
    two do not compute the same model."""
    plan.peer.require(BENCH, PERPLEXITY, *([QUANTIZE] if plan.types else []))
    rows = []
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        for type in (None, *plan.types):
            file = plan.file if type is None else plan.peer.quantised(plan.file, type, scratch)
            rows += _rows(plan, file, scratch, say)
    return rows


def _rows(plan: Plan, file: Path, scratch: Path, say: Say) -> list[Row]:
    folder = scratch / f"{file.stem}-folder"
    say(f"{file.name}: a model folder with its blocks")
    convert(file, folder, keep_blocks=True, proof=False)
    likeness = _alike(plan, file, folder, scratch, say)
    decode = f"decode {plan.prompt_tokens} + {plan.new_tokens}", plan.prompt_tokens, plan.new_tokens
    prefill = f"prefill {plan.prefill_tokens}", plan.prefill_tokens, 1
    rows = []
    for work, prompt_tokens, new_tokens in (decode, prefill):
        say(f"{file.name}: {work}, {plan.rounds} rounds")
        contestants = _contest(plan, file, folder, prompt_tokens, new_tokens)
        rows.append(Row(file.name, work, new_tokens - 1 or prompt_tokens, contestants, likeness))
    return rows


def _alike(plan: Plan, file: Path, folder: Path, scratch: Path, say: Say) -> Likeness:
    """Raises LaunchError if the predictions are not those of one model."""
    say(f"{file.name}: both predict the same text")
    windows, context = _CHECKED
    theirs = plan.peer.logits(file, written_topics(scratch), context, windows, scratch)
    llm, found = LLM(folder, device="cpu", quantization="blocks"), Likeness("hanbit")
    for tokens, base in zip(with_begin(llm, theirs).tolist(), theirs.log_probabilities, strict=True):
        own = log_probabilities(llm, tokens, theirs.first)
        found.add(torch.from_numpy(base), own, torch.tensor(tokens[theirs.first + 1 :]))
    if not found.divergence < _LARGEST_DIVERGENCE:
        raise LaunchError(
            f"{file.name}: over {found.positions} tokens hanbit's predictions are {found.divergence:.4f} nats from "
            f"llama.cpp's, at most {_LARGEST_DIVERGENCE} is rounding: not the same work"
        )
    return found


def _contest(
    plan: Plan, file: Path, folder: Path, prompt_tokens: int, new_tokens: int
) -> tuple[Contestant, Contestant]:
    """`seconds` of the tokens behind the first, or of one new token those until it is there."""
    prompts = windows_of_topics(folder, prompt_tokens, WARM_UP + plan.rounds)
    ours = {"model": str(folder), "prompts": prompts, "new_tokens": new_tokens, "with_blocks": True}
    is_prefill = new_tokens == 1
    theirs = {
        "folder": str(plan.peer.folder),
        "threads": plan.peer.threads,
        "file": str(file),
        "depth": 0 if is_prefill else prompt_tokens,
        "prompt_tokens": prompt_tokens if is_prefill else 0,
        "new_tokens": new_tokens - 1,
    }
    environment = {**os.environ, "OMP_NUM_THREADS": str(plan.peer.threads)}
    with tempfile.TemporaryDirectory() as name:
        logs, found = Path(name), []
        for who, module, settings in (
            ("hanbit", "generate_worker", ours),
            ("llama.cpp", "llama_bench_worker", theirs),
        ):
            path = logs / f"{who}.json"
            path.write_text(json.dumps(settings))
            command = [sys.executable, "-m", f"hanbit.bench.{module}", str(path)]
            found.append(Contestant(who, command, environment))
        take_turns_telling(found, plan.rounds, 1, WARM_UP, logs)
    return found[0], found[1]

"""`hanbit bench generate`: decode tokens per second of the engine and of transformers' `generate`, taking turns.

One sequence, float32, greedy, the same folder and prompts; their tokens must be the same before any ratio is printed.
Beside llama.cpp: generate_gguf.py.
"""

import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hanbit.bench.topics import topics
from hanbit.bench.turns import Contestant, ratios, take_turns_telling
from hanbit.common.errors import LaunchError
from hanbit.tokenizers.load import load as load_tokenizer

WARM_UP = 1
SCRIPT = Path("benchmarks/peers/hf_generate.py")


@dataclass(frozen=True)
class Plan:
    """A turn is one answer of `new_tokens` to a prompt of `prompt_tokens`, another one each round."""

    model: Path
    peer_script: Path
    peer_python: str
    prompt_tokens: int = 128
    new_tokens: int = 128
    rounds: int = 7
    threads: int | None = None


def measure(plan: Plan) -> list[Contestant]:
    """hanbit and transformers, `seconds` from the first new token to the last. Raises LaunchError if tokens differ."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = folder / "settings.json"
        settings.write_text(
            json.dumps(
                {
                    "model": str(plan.model),
                    "prompts": windows_of_topics(plan.model, plan.prompt_tokens, WARM_UP + plan.rounds),
                    "new_tokens": plan.new_tokens,
                    "with_blocks": False,
                }
            )
        )
        environment = {**os.environ, **({"OMP_NUM_THREADS": str(plan.threads)} if plan.threads else {})}
        worker = [sys.executable, "-m", "hanbit.bench.generate_worker", str(settings)]
        peer = [plan.peer_python, str(plan.peer_script), str(settings)]
        contestants = [Contestant("hanbit", worker, environment), Contestant("transformers", peer, environment)]
        take_turns_telling(contestants, plan.rounds, 1, WARM_UP, folder)
    _check_same_tokens(contestants, plan.new_tokens)
    return contestants


def table(contestants: list[Contestant], new_tokens: int) -> list[dict[str, float | str]]:
    """A row each: decode tokens per second (median), how many times faster hanbit was (median, lowest, highest)."""
    rows: list[dict[str, float | str]] = []
    for contestant in contestants:
        faster = sorted(ratios(contestants[0], contestant))
        rows.append(
            {
                "name": contestant.name,
                "decode_tokens_per_second": round((new_tokens - 1) / contestant.median, 1),
                "token_milliseconds": round(1000 * contestant.median / (new_tokens - 1), 2),
                "hanbit_over_it": round(float(np.median(faster)), 3),
                "lowest": round(faster[0], 3),
                "highest": round(faster[-1], 3),
            }
        )
    return rows


def windows_of_topics(folder: Path, tokens: int, count: int) -> list[list[int]]:
    """`count` prompts of so many tokens out of Python's own documentation, which is on every machine."""
    found = load_tokenizer(folder).encode(topics())
    return [found[index * tokens : (index + 1) * tokens] for index in range(count)]


def _check_same_tokens(contestants: list[Contestant], new_tokens: int) -> None:
    ours, theirs = (contestant.results for contestant in contestants)
    assert len(ours) == len(theirs)
    for place, pair in enumerate(zip(ours, theirs, strict=True)):
        if pair[0] != pair[1]:
            raise LaunchError(
                f"answer {place // new_tokens}, token {place % new_tokens}: hanbit says {pair[0]}, transformers "
                f"{pair[1]}: not the same work"
            )

"""`hanbit bench perplexity`: what a model's blocks cost, and llama.cpp's answer to the same question.

One text, cut into windows; of each the first half is read, then every token is predicted from those before it. The
base is our own float32 computation with the numbers that the blocks stand for: what is further from it rounds more.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from hanbit.bench.likeness import Likeness, log_probabilities
from hanbit.bench.llama_cpp import LlamaCpp
from hanbit.bench.llama_logits import Windows
from hanbit.bench.topics import topics
from hanbit.common.errors import DataError
from hanbit.engine.llm import LLM

Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """`folder`: a model folder with blocks, of the GGUF file `file` if there is a peer. Windows of `context` tokens."""

    folder: Path
    file: Path | None = None
    peer: LlamaCpp | None = None
    text: Path | None = None
    context: int = 512
    windows: int = 4


def measure(plan: Plan, say: Say) -> list[Likeness]:
    """Float32, this engine with the blocks, and the peer. Raises DataError if the text is too short."""
    with tempfile.TemporaryDirectory() as name:
        text = plan.text or written_topics(Path(name))
        theirs = None
        if plan.peer is not None and plan.file is not None:
            say("llama.cpp reads the text")
            theirs = plan.peer.logits(plan.file, text, plan.context, plan.windows, Path(name))
        exact, blocks = LLM(plan.folder, device="cpu", quantization="none"), LLM(plan.folder, device="cpu")
        windows = _own_windows(blocks, text, plan) if theirs is None else with_begin(blocks, theirs)
        found = [Likeness("float32"), Likeness("hanbit")] + ([] if theirs is None else [Likeness("llama.cpp")])
        for index, tokens in enumerate(windows.tolist()):
            say(f"window {index + 1} of {len(windows)}")
            first = len(tokens) // 2
            following = torch.tensor(tokens[first + 1 :])
            base = log_probabilities(exact, tokens, first)
            told = [base, log_probabilities(blocks, tokens, first)]
            if theirs is not None:
                told.append(torch.from_numpy(theirs.log_probabilities[index]))
            for likeness, own in zip(found, told, strict=True):
                likeness.add(base, own, following)
    return found


def table(found: list[Likeness]) -> list[dict[str, float | str]]:
    return [
        {
            "name": one.name,
            "tokens": one.positions,
            "perplexity": round(one.perplexity, 4),
            "same_likeliest_percent": round(100 * one.same_first, 2),
            "divergence_nats": round(one.divergence, 6),
            "largest_gap_nats": round(one.largest_gap, 4),
        }
        for one in found
    ]


def written_topics(folder: Path) -> Path:
    """Python's own documentation, which is on every machine, as a file."""
    path = folder / "topics.txt"
    path.write_text(topics(), encoding="utf-8")
    return path


def with_begin(llm: LLM, windows: Windows) -> torch.Tensor:
    """int64 [windows, context]; llama.cpp reads a begin token instead of a window's first where the model has one."""
    tokens = torch.from_numpy(windows.tokens.copy())
    begin = llm.tokenizer.encode("")
    if begin:
        tokens[:, 0] = begin[0]
    return tokens


def _own_windows(llm: LLM, text: Path, plan: Plan) -> torch.Tensor:
    tokens = llm.tokenizer.encode(text.read_text(encoding="utf-8"))
    wanted = plan.windows * plan.context
    if len(tokens) < wanted:
        raise DataError(f"{text} has {len(tokens)} tokens, {plan.windows} windows of {plan.context} need {wanted}")
    return torch.tensor(tokens[:wanted]).view(plan.windows, plan.context)

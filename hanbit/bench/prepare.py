"""`hanbit bench prepare`: tokens per second written by `prepare`, beside the library alone and a one-document loop.

Real text that every machine has (Python's standard library: its documentation topics and its own source files), each
contestant in turn, the order reversed every round. `prepare` does everything it does for a user, digests and fsync
included; `encode_batch_fast` only encodes all documents in one call and writes nothing. Token counts must agree.
"""

import json
import statistics
import sysconfig
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from hanbit.common.errors import DataError
from hanbit.data.prepare import prepare
from hanbit.data.sources import find_sources
from hanbit.tokenizers.load import load


@dataclass
class Contestant:
    name: str
    run: Callable[[], int]  # does the whole work once, returns tokens without end-of-document ids
    tokens_per_second: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.tokens_per_second)


def measure(tokenizer: str, rounds: int = 7, workers: int = 2, megabytes: float = 12.0) -> list[Contestant]:
    """`prepare`, `encode_batch_fast` and the loop with their tokens/s per round; raises DataError if counts differ."""
    with tempfile.TemporaryDirectory() as name:
        contestants = _contestants(Path(name), tokenizer, workers, megabytes)
        counts = {contestant.name: contestant.run() for contestant in contestants}  # warm-up: files and caches
        if len(set(counts.values())) > 1:
            raise DataError(f"the contestants made different numbers of tokens: {counts}; no ratio is meaningful")
        for turn in range(rounds):
            for contestant in contestants if turn % 2 == 0 else contestants[::-1]:
                started = time.perf_counter()
                tokens = contestant.run()
                contestant.tokens_per_second.append(tokens / (time.perf_counter() - started))
    return contestants


def table(contestants: list[Contestant]) -> str:
    """One line a contestant: median, slowest and fastest round in M tokens/s, and the ratio of the first to it."""
    lines = [f"{'':20} {'median':>8} {'slowest':>8} {'fastest':>8} {'prepare is':>11}"]
    for contestant in contestants:
        rates = [rate / 1e6 for rate in contestant.tokens_per_second]
        ratios = zip(contestants[0].tokens_per_second, contestant.tokens_per_second, strict=True)
        ratio = statistics.median(ours / theirs for ours, theirs in ratios)
        median = contestant.median / 1e6
        lines.append(f"{contestant.name:20} {median:8.2f} {min(rates):8.2f} {max(rates):8.2f} {ratio:9.2f} x")
    return "\n".join(lines)


def _contestants(folder: Path, tokenizer: str, workers: int, megabytes: float) -> list[Contestant]:
    corpus = write_corpus(folder / "corpus.jsonl", megabytes)
    core = load(tokenizer).core
    texts = [text for text, _ in find_sources([str(corpus)])[0].documents()]
    turn = iter(range(10**9))

    def run_prepare() -> int:
        made = prepare([str(corpus)], folder / f"out{next(turn)}", tokenizer, workers=workers)
        return made.tokens - made.documents

    def run_alone() -> int:
        return sum(len(encoding) for encoding in core.encode_batch_fast(texts, add_special_tokens=False))

    def run_loop() -> int:
        return sum(len(core.encode(text, add_special_tokens=False)) for text in texts)

    return [
        Contestant("prepare", run_prepare),
        Contestant("encode_batch_fast", run_alone),
        Contestant("one document a call", run_loop),
    ]


def write_corpus(path: Path, megabytes: float) -> Path:
    """Standard library topics and sources as JSONL, until there are `megabytes` of text; returns `path`."""
    left = megabytes * 1e6
    with open(path, "w", encoding="utf-8") as file:
        for text, _ in find_sources(["python-docs"])[0].documents():
            left -= len(text)
            file.write(json.dumps({"text": text}) + "\n")
        for source in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
            if left <= 0:
                break
            if {"site-packages", "test", "tests", "encodings"} & set(source.parts):
                continue
            text = source.read_text(encoding="utf-8", errors="replace")
            if text.strip():
                left -= len(text)
                file.write(json.dumps({"text": text}) + "\n")
    return path

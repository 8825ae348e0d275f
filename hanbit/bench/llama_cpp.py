"""llama.cpp as a peer: a folder of its programs, built by benchmarks/peers/build_llama_cpp.sh or by anyone else.

`llama-bench` and `llama-batched-bench` say how fast it is, `llama-quantize` makes other blocks of a file, and
`llama-perplexity` writes its logits over a text (llama_logits.py), which show that both compute the same model.
"""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanbit.bench.llama_logits import Windows, read
from hanbit.common.errors import ConfigError, LaunchError

BENCH, BATCHED, QUANTIZE, PERPLEXITY = "llama-bench", "llama-batched-bench", "llama-quantize", "llama-perplexity"
HOW = "Build them with benchmarks/peers/build_llama_cpp.sh DIR, and name DIR/build/bin with --peer-path"
_PATIENCE_SECONDS = 1800.0


@dataclass(frozen=True)
class LlamaCpp:
    """`folder` has the programs; `threads` is what each of them gets."""

    folder: Path
    threads: int

    def require(self, *programs: str) -> None:
        """Raises ConfigError naming the first that is not there."""
        for program in programs:
            path = self.folder / program
            if not (path.is_file() and os.access(path, os.X_OK)):
                raise ConfigError(f"{path} is not a program that can be run. {HOW}")

    def quantised(self, file: Path, type: str, folder: Path) -> Path:
        """`file` with its blocks turned into those of `type` (Q4_0, Q8_0) by llama.cpp, in `folder`."""
        made = folder / f"{file.stem}.{type}.gguf"
        self.run(QUANTIZE, "--allow-requantize", str(file), str(made), type, str(self.threads))
        return made

    def logits(self, file: Path, text: Path, context: int, windows: int, scratch: Path) -> Windows:
        """Of the first `windows` windows of `context` tokens of a text. Raises LaunchError if it is shorter."""
        kept = scratch / "logits"
        kept.unlink(missing_ok=True)
        self.run(
            PERPLEXITY, "-m", str(file), "-f", str(text), "-c", str(context), "-b", str(context), "-t",
            str(self.threads), "--chunks", str(windows), "--kl-divergence-base", str(kept),
        )  # fmt: skip
        found = read(kept)
        if len(found.tokens) < windows:
            raise LaunchError(
                f"{text} has {len(found.tokens)} windows of {context} tokens, not {windows}. Ask for fewer"
            )
        return found

    def batched(self, file: Path, prompt_tokens: int, new_tokens: int, sequences: int) -> dict[str, float]:
        """What `llama-batched-bench` says of so many sequences: tokens per second of all in all (`speed`), of prompts
        (`speed_pp`) and of answers (`speed_tg`)."""
        said = self.run(
            BATCHED, "-m", str(file), "-c", str(sequences * (prompt_tokens + new_tokens)), "-npp", str(prompt_tokens),
            "-ntg", str(new_tokens), "-npl", str(sequences), "-t", str(self.threads), "--output-format", "jsonl",
        )  # fmt: skip
        for line in said.splitlines():
            if (found := _object(line)) and "speed_tg" in found:
                return {key: float(found[key]) for key in ("speed", "speed_pp", "speed_tg")}
        raise LaunchError(f"{BATCHED} ended without a result:\n{said[-2000:]}")

    def run(self, program: str, *arguments: str) -> str:
        """What it wrote to standard output. Raises LaunchError with its last words if it fails."""
        command = [str(self.folder / program), *arguments]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False,
                timeout=_PATIENCE_SECONDS,
            )  # fmt: skip
        except OSError as problem:
            raise LaunchError(f"{command[0]} cannot be run: {problem.strerror}. {HOW}") from None
        except subprocess.TimeoutExpired:
            raise LaunchError(f"{' '.join(command)} has not ended in {_PATIENCE_SECONDS:.0f} s") from None
        if done.returncode:
            raise LaunchError(
                f"{' '.join(command)} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-2000:]}"
            )
        return done.stdout


def _object(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except json.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None

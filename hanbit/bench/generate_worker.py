"""A contestant of `hanbit bench generate`: this engine, one answer after another.

    python -m hanbit.bench.generate_worker SETTINGS.json

SETTINGS: {"model": folder, "prompts": [[token ids], ...], "new_tokens", "with_blocks": else float32}; a prompt for
every step. Seconds are those between the first new token and the last; of one new token, those until it is there.
"""

import json
import sys
import time
from pathlib import Path

import torch

from hanbit.engine.llm import LLM
from hanbit.engine.sampling_params import SamplingParams


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_text())
    is_exact = not settings["with_blocks"]
    llm = LLM(settings["model"], dtype="float32", device="cpu", quantization="none" if is_exact else "blocks")
    params = SamplingParams(temperature=0, max_tokens=settings["new_tokens"], ignore_eos=True)
    prompts = iter(settings["prompts"])
    print(json.dumps({"ready": "hanbit", "torch": torch.__version__, "threads": torch.get_num_threads()}), flush=True)
    for line in sys.stdin:
        seconds = 0.0
        tokens: list[int] = []
        for _ in range(json.loads(line)["steps"]):
            began, moments = time.perf_counter(), []
            for piece in llm.stream(next(prompts), params):
                moments.append(time.perf_counter())
                tokens += piece.token_ids
            seconds += moments[-1] - (moments[0] if len(moments) > 1 else began)
        print(json.dumps({"seconds": seconds, "results": tokens}), flush=True)


if __name__ == "__main__":
    main()

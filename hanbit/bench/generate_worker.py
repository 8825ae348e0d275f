"""A contestant of `hanbit bench generate`: this engine, one answer after another.

python -m hanbit.bench.generate_worker SETTINGS.json
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
    llm = LLM(settings["model"], dtype="float32", device="cpu")
    params = SamplingParams(temperature=0, max_tokens=settings["new_tokens"], ignore_eos=True)
    prompts = iter(settings["prompts"])
    print(json.dumps({"ready": "hanbit", "torch": torch.__version__, "threads": torch.get_num_threads()}), flush=True)
    for line in sys.stdin:
        seconds = 0.0
        tokens: list[int] = []
        for _ in range(json.loads(line)["steps"]):
            moments = []
            for piece in llm.stream(next(prompts), params):
                moments.append(time.perf_counter())
                tokens += piece.token_ids
            seconds += moments[-1] - moments[0]
        print(json.dumps({"seconds": seconds, "results": tokens}), flush=True)


if __name__ == "__main__":
    main()

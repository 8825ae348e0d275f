"""A contestant of `hanbit bench generate`: transformers' own `generate`, greedy, with its cache.

    python benchmarks/peers/hf_generate.py SETTINGS.json

SETTINGS: {"model": folder, "prompts": [[token ids], ...], "new_tokens"}; a prompt for every step. Needs transformers;
knows nothing of hanbit. Speaks the protocol of hanbit/bench/turns.py; seconds are those between the first new token
and the last.
"""

import json
import sys
import time
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM
from transformers.generation.streamers import BaseStreamer


class Moments(BaseStreamer):
    """When each token came; the prompt comes first."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        self.at.append(time.perf_counter())

    def end(self) -> None:
        pass


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_text())
    model = AutoModelForCausalLM.from_pretrained(settings["model"], dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None
    prompts, count = iter(settings["prompts"]), settings["new_tokens"]
    ready = f"transformers {transformers.__version__}"
    print(json.dumps({"ready": ready, "torch": torch.__version__, "threads": torch.get_num_threads()}), flush=True)
    for line in sys.stdin:
        seconds = 0.0
        tokens: list[int] = []
        for _ in range(json.loads(line)["steps"]):
            prompt, moments = torch.tensor([next(prompts)]), Moments()
            answer = model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                do_sample=False,
                use_cache=True,
                max_new_tokens=count,
                pad_token_id=0,
                streamer=moments,
            )
            tokens += answer[0, prompt.shape[1] :].tolist()
            seconds += moments.at[-1] - moments.at[1]
        print(json.dumps({"seconds": seconds, "results": tokens}), flush=True)


if __name__ == "__main__":
    main()

"""Trains two steps of each recipe inside a group of processes, and writes how many bytes of tensors each rank held.

Started by `bench/memory.py`:  torchrun ... -m hanbit.bench.memory_worker RECIPES.json RESULTS.jsonl
"""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from hanbit.bench.group import add_result
from hanbit.common.log import start_logging
from hanbit.config.recipe import Recipe
from hanbit.parallel.agree import from_all
from hanbit.parallel.grid import start_processes, stop_processes
from hanbit.train.live_tensors import LiveTensors, Part
from hanbit.train.loop import one_step
from hanbit.train.run import build
from hanbit.train.setup import grid_of


def peak_of(recipe: Recipe) -> tuple[int, int]:
    """Bytes of this process at the fullest moment of two steps; what was needed to get ready does not count.

    Of the device's memory and, with parallel.offload, of the host's.
    """
    offload = recipe.parallel.offload
    with LiveTensors(offload) as live:
        with live.making(Part.WEIGHTS, on_host=offload):
            training = build(recipe, grid_of(recipe, torch.device("cpu")))
        live.begin()
        for _ in range(2):
            one_step(training)
    return live.device.peak, live.host.peak


def main() -> None:
    recipes_path, results_path = sys.argv[1:]
    start_logging()
    torch.set_num_threads(1)
    start_processes(torch.device("cpu"), timeout_seconds=300)
    recipes = [Recipe.model_validate_json(json.dumps(one)) for one in json.loads(Path(recipes_path).read_text())]
    for recipe in recipes:
        peaks = from_all(peak_of(recipe))
        if not dist.is_initialized() or dist.get_rank() == 0:
            add_result(results_path, peaks)
    stop_processes()


if __name__ == "__main__":
    main()

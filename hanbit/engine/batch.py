"""Answer many prompts together: each is read alone, then all grow by one token a step until each has ended.

A row of the cache that falls free is given to the next prompt that waits; rows stay packed at the front, so that a
step works on living sequences only.
"""

from collections import deque
from collections.abc import Iterator
from collections.abc import Sequence as Items

import torch

from hanbit.common.errors import GenerationError
from hanbit.engine.output import Piece
from hanbit.engine.runner import Runner
from hanbit.engine.sampling import choose
from hanbit.engine.sequence import Sequence


def answer(runner: Runner, sequences: Items[Sequence]) -> Iterator[tuple[Sequence, Piece]]:
    """Pieces of all answers as they come. Closing the iterator ends all work."""
    waiting = deque(sequences)
    running: list[Sequence] = []  # by row
    while waiting or running:
        while waiting and len(running) < runner.cache.rows:
            sequence = waiting.popleft()
            piece = _take(sequence, runner.prefill(len(running), sequence.prompt))
            if sequence.finish_reason is None:
                running.append(sequence)
            yield sequence, piece
        if running:
            yield from _step(runner, running)


def _step(runner: Runner, running: list[Sequence]) -> Iterator[tuple[Sequence, Piece]]:
    logits = runner.decode([one.answer[-1] for one in running], [one.last_position for one in running])
    pieces = [(sequence, _take(sequence, row)) for sequence, row in zip(running, logits, strict=True)]
    for row in reversed(range(len(running))):
        if running[row].finish_reason is not None:
            _free(runner, running, row)
    yield from pieces


def _free(runner: Runner, running: list[Sequence], row: int) -> None:
    """The last sequence moves into the hole."""
    last = running.pop()
    if row < len(running):
        runner.cache.move(len(running), row, last.last_position)
        running[row] = last


def _take(sequence: Sequence, logits: torch.Tensor) -> Piece:
    if not logits.max().isfinite():  # max hands NaN on
        raise GenerationError(
            f"the model's logits after {sequence.last_position + 1} tokens are not numbers: its weights are damaged, "
            "or the dtype is too narrow for it. Check the folder, or use dtype float32"
        )
    return sequence.accept(choose(logits, sequence.params, sequence.uniform()))

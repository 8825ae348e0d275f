"""Beam search: the likeliest of many ways to go on, several of which are followed at once.

As transformers' `generate(num_beams=, length_penalty=, early_stopping=)` has it, in `_beam_search` of its
generation/utils.py. A beam is a sequence of its own, so that stop texts, bad words and forms of answers mean what they
mean everywhere; batch.py shares the beams' blocks.
"""

import math
from collections.abc import Sequence as Items
from dataclasses import dataclass, replace

import torch

from hanbit.common.errors import GenerationError
from hanbit.engine.output import Output, Piece, Usage
from hanbit.engine.sampling import adjusted, logprob_of
from hanbit.engine.sequence import Sequence


@dataclass(frozen=True)
class Step:
    """How the beams go on from `before`: each of `children` where its parent in `parents` is, with one more token."""

    before: tuple[Sequence, ...]
    parents: tuple[Sequence, ...]
    children: tuple[Sequence, ...]


class Beams:
    """The search for one prompt. `head` is the sequence that was asked for; it is the first beam, and the result.

    Does: `take` the logits of every beam; `advance` when it `is_ready`; feed the children; until `result`.
    """

    def __init__(self, head: Sequence) -> None:
        self.head, self._params = head, head.params
        self._width = head.params.num_beams
        # enough that as many go on if all ends are among the likeliest
        self._num_candidates = max(2, 1 + head.num_ends) * self._width
        self.beams: tuple[Sequence, ...] = (head,)
        self._scores = torch.zeros(1)  # of the beams, likeliest first
        self._logits: dict[Sequence, torch.Tensor] = {}
        self._finished: list[tuple[float, Sequence]] = []  # the best `width`, best first
        self._can_improve = True

    @property
    def is_ready(self) -> bool:
        return all(beam in self._logits for beam in self.beams)

    def take(self, beam: Sequence, logits: torch.Tensor) -> None:
        """logits [vocabulary] behind a beam's last token; again where it had to be read anew."""
        self._logits[beam] = logits.float().cpu()

    def advance(self) -> Step | None:
        """The next beams; None when the search is over. Raises GenerationError where nothing may follow at all."""
        candidates = self._candidates()
        ended = [child.finish_reason is not None for _, _, child in candidates]
        self._finish([(score, child) for score, _, child in candidates[: self._width] if child.finish_reason])
        going = [one for one, has_ended in zip(candidates, ended, strict=True) if not has_ended][: self._width]
        if not going and not self._finished:
            raise GenerationError(
                f"after {len(self.beams[0].answer)} tokens of the answer every token of the vocabulary is forbidden to "
                "every beam, by bad_words, min_tokens and structured_outputs together. Allow some"
            )
        self._logits = {}
        self._look_ahead(going[0][0] if going else -math.inf, len(candidates[0][2].answer) if candidates else 1)
        is_full = len(self._finished) == self._width
        if not going or not self._can_improve or (is_full and self._params.early_stopping is True):
            return None
        step = Step(self.beams, tuple(parent for _, parent, _ in going), tuple(child for _, _, child in going))
        self.beams, self._scores = step.children, torch.tensor([score for score, _, _ in going])
        return step

    def result(self) -> Piece:
        """The best answer as one piece, `n - 1` others with it; `head` has it from now on."""
        best = [sequence.output(score) for score, sequence in self._finished[: self._params.n]]
        self.head.become(self._finished[0][1], replace(best[0], others=tuple(best[1:])))
        usage = Usage(len(self.head.asked), sum(len(output.token_ids) for output in best))
        first, *others = (_piece(output) for output in best)
        return replace(first, usage=usage, others=tuple(others))

    def _candidates(self) -> list[tuple[float, Sequence, Sequence]]:
        """The likeliest ways to go on by one token, likeliest first: score, beam, and the beam with that token."""
        rows = [self._allowed(beam) for beam in self.beams]
        sums = torch.stack(rows) + self._scores[:, None]
        size = sums.shape[1]
        values, places = sums.flatten().topk(min(self._num_candidates, sums.numel()))
        found = []
        for score, place in zip(values.tolist(), places.tolist(), strict=True):
            if score == -math.inf:
                break
            parent, token = self.beams[place // size], place % size
            child = parent.fork()
            child.accept(token, self._told(parent, token))
            found.append((score, parent, child))
        return found

    def _allowed(self, beam: Sequence) -> torch.Tensor:
        """Logarithms of the probabilities, to which penalties and prohibitions are applied as transformers does."""
        allowed = None if beam.grammar is None else beam.grammar.allowed()
        forbidden = beam.forbidden_ids(allowed)
        logprobs = self._logits[beam].log_softmax(0)
        return adjusted(logprobs, self._params, beam.answer, forbidden, beam.prompt, allowed)

    def _told(self, beam: Sequence, token: int) -> tuple:
        count = self._params.logprobs
        return () if count is None else (logprob_of(self._logits[beam], token, count),)

    def _finish(self, ended: Items[tuple[float, Sequence]]) -> None:
        is_full = len(self._finished) == self._width
        if is_full and self._params.early_stopping is True:
            return
        scored = [(score / len(child.answer) ** self._params.length_penalty, child) for score, child in ended]
        self._finished = sorted([*self._finished, *scored], key=lambda one: -one[0])[: self._width]

    def _look_ahead(self, best: float, length: int) -> None:
        """Could the best beam, of this length, still become better than the worst of the finished? A guess where a
        length penalty lets scores grow, by `early_stopping`."""
        if len(self._finished) < self._width:
            return
        penalty = self._params.length_penalty
        if self._params.early_stopping == "never" and penalty > 0:
            length = self.head.max_tokens
        self._can_improve = best / length**penalty > self._finished[-1][0]


def check_width(sequence: Sequence, num_blocks: int, block_size: int, seats: int) -> None:
    """Raises GenerationError for a search whose beams together are larger than the cache, or more than there are seats;
    smaller ones all end (scheduler.py)."""
    width = sequence.params.num_beams
    needed = width * -(-sequence.longest // block_size)
    if needed > num_blocks or width > seats:
        raise GenerationError(
            f"num_beams={width} take {needed} blocks of the key-value cache and {width} seats, and there are "
            f"{num_blocks} and {seats}. Lower it or max_tokens, or give more: num_blocks, max_sequences"
        )


def _piece(output: Output) -> Piece:
    return Piece(output.text, output.token_ids, output.finish_reason, None, output.logprobs)

"""`hanbit bench speculation`: decode tokens per second with guesses over those without, taking turns in one process.

Two works, one sequence each, the same model and the same tokens on both sides, or there is no ratio. A text that
repeats its prompt: a passage of Python's documentation and its beginning once more, which the model goes on with,
greedily. A text of its own: drawn at temperature 1, where guesses can only cost. Prompts differ from round to round. Of
the tokens after the first, which waits for the prompt to be read.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from hanbit.bench.answers import seconds_after_first, sequence_of
from hanbit.bench.topics import topics
from hanbit.checkpoint.model_folder import read_config
from hanbit.common.errors import ConfigError, LaunchError
from hanbit.engine.batch import Batch
from hanbit.engine.drafts import SpeculationCounts
from hanbit.engine.llm import LLM
from hanbit.engine.opening import model_folder
from hanbit.engine.parts import Limits
from hanbit.engine.runner import Runner
from hanbit.engine.sampling_params import SamplingParams
from hanbit.engine.sequence import Sequence
from hanbit.engine.speculation import Speculation
from hanbit.formats.hub import folder_of
from hanbit.tokenizers.load import load as load_tokenizer

Say = Callable[[str], None]
_WARM_UP = 1


@dataclass(frozen=True)
class Plan:
    """A turn is one answer of `new_tokens`; its prompt is a passage of `again_tokens` more, of which so many come once
    more. No further of the `rounds` is begun that would end after `seconds`, going by the longest yet."""

    model: Path
    speculation: Speculation
    new_tokens: int = 128
    again_tokens: int = 32
    rounds: int = 7
    seconds: float = 180.0
    threads: int | None = None

    @property
    def passage_tokens(self) -> int:
        return self.new_tokens + self.again_tokens


@dataclass
class Measured:
    """Seconds of an answer's tokens after the first, round by round; `counts` of the guesses of all of them."""

    what: str
    plain: list[float] = field(default_factory=list)
    guessed: list[float] = field(default_factory=list)
    counts: SpeculationCounts = field(default_factory=SpeculationCounts)

    @property
    def ratios(self) -> list[float]:
        return [without / with_ for without, with_ in zip(self.plain, self.guessed, strict=True)]


def measure(plan: Plan, say: Say) -> list[Measured]:
    """Raises LaunchError if the tokens of both ways differ; ConfigError, before the model is read, on a plan that gives
    no times, on answers that the model's context does not hold, and on more rounds than there is text for."""
    _check(plan)
    began, longest = time.perf_counter(), 0.0
    if plan.threads is not None:
        torch.set_num_threads(plan.threads)
    llm = LLM(plan.model, device="cpu", speculation=plan.speculation)
    text = llm.tokenizer.encode(topics())
    works = [Measured("repeats its prompt, greedy"), Measured("a text of its own, drawn")]
    for round in range(_WARM_UP + plan.rounds):
        round_began = time.perf_counter()
        if round > _WARM_UP and round_began - began + longest > plan.seconds:
            say(f"{plan.seconds:.0f} s are up after {round - _WARM_UP} rounds of {plan.rounds}")
            break
        passage = text[round * plan.passage_tokens :][: plan.passage_tokens]
        drawn = SamplingParams(seed=round, max_tokens=plan.new_tokens, ignore_eos=True)
        turns = ((passage + passage[: plan.again_tokens], replace(drawn, temperature=0)), (passage, drawn))
        for work, (prompt, params) in zip(works, turns, strict=True):
            _take_turns(llm, work, prompt, params, round)
        longest = max(longest, time.perf_counter() - round_began)
    return works


def _check(plan: Plan) -> None:
    if plan.new_tokens < 2:
        raise ConfigError(f"--new-tokens {plan.new_tokens} must be at least 2: the first one is the prompt's")
    if plan.rounds < 1:
        raise ConfigError(f"--rounds {plan.rounds} must be at least 1")
    if plan.speculation.method == "none":
        raise ConfigError(
            "--speculation none guesses nothing, so there is nothing to compare. Use prompt_lookup or draft"
        )
    folder = model_folder(folder_of(plan.model))
    longest, context = plan.passage_tokens + plan.again_tokens + plan.new_tokens, read_config(folder).context
    if longest > context:
        most = (context - 2 * plan.again_tokens) // 2
        way_out = f"Use --new-tokens {most} at most" if most > 1 else "Take a model of a longer one"
        raise ConfigError(
            f"--new-tokens {plan.new_tokens}: prompt and answer take {longest} tokens, and the context of {folder} "
            f"holds {context}. {way_out}"
        )
    needed, there = (_WARM_UP + plan.rounds) * plan.passage_tokens, len(load_tokenizer(folder).encode(topics()))
    if needed > there:
        raise ConfigError(
            f"--rounds {plan.rounds} of --new-tokens {plan.new_tokens} take a text of {needed} tokens, Python's topics "
            f"have {there}. Lower one of them"
        )


def table(works: list[Measured], new_tokens: int) -> list[dict[str, float | str]]:
    """A row each: tokens per second without and with guesses (median), the ratio (median, lowest, highest), and the
    share of guessed tokens that were right."""
    return [
        {
            "what": work.what,
            "plain_tokens_per_second": round((new_tokens - 1) / statistics.median(work.plain), 1),
            "tokens_per_second": round((new_tokens - 1) / statistics.median(work.guessed), 1),
            "over_plain": round(statistics.median(work.ratios), 3),
            "lowest": round(min(work.ratios), 3),
            "highest": round(max(work.ratios), 3),
            "right_percent": round(100 * work.counts.accepted_tokens / max(1, work.counts.draft_tokens), 1),
            "guessed_tokens": work.counts.draft_tokens,
        }
        for work in works
    ]


def _take_turns(llm: LLM, work: Measured, prompt: list[int], params: SamplingParams, round: int) -> None:
    """One answer each way, in another order each round."""
    answers, seconds = {}, {}
    for is_guessed in (False, True) if round % 2 == 0 else (True, False):
        sequence = sequence_of(llm, prompt, params)
        batch = _batch(llm, sequence, is_guessed)
        seconds[is_guessed] = seconds_after_first(batch, sequence)
        answers[is_guessed] = sequence.answer
        if is_guessed and round >= _WARM_UP:
            work.counts = _sum(work.counts, batch.speculation_counts)
    if answers[False] != answers[True]:
        place = next(n for n, pair in enumerate(zip(answers[False], answers[True], strict=True)) if pair[0] != pair[1])
        raise LaunchError(f"{work.what}, round {round}: token {place} is another one with guesses: not the same work")
    if round >= _WARM_UP:
        work.plain.append(seconds[False])
        work.guessed.append(seconds[True])


def _batch(llm: LLM, sequence: Sequence, is_guessed: bool) -> Batch:
    """With a cache for one answer, in which nothing is found."""
    num_blocks = -(-sequence.longest // llm.block_size) + 1
    drafts = llm.drafts(num_blocks) if is_guessed else None
    return Batch(Runner(llm.model, num_blocks, llm.block_size), Limits(1), shares=False, drafts=drafts)


def _sum(one: SpeculationCounts, other: SpeculationCounts) -> SpeculationCounts:
    return SpeculationCounts(
        one.drafts + other.drafts,
        one.draft_tokens + other.draft_tokens,
        one.accepted_tokens + other.accepted_tokens,
    )

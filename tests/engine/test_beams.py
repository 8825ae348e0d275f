"""Beam search finds the answers and scores of transformers' `generate`, and does so in any company, on few blocks."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hanbit.common.errors import GenerationError
from hanbit.engine.batch import Batch
from hanbit.engine.llm import LLM
from hanbit.engine.parts import Limits
from hanbit.engine.runner import Runner
from hanbit.engine.sampling_params import SamplingParams
from hanbit.engine.sequence import Sequence
from hanbit.engine.structured_outputs import StructuredOutputs
from tests.engine.conftest import Folder
from tests.engine.folders import VOCABULARY, theirs_of
from tests.engine.test_llm import GREEDY, prompts_of

PROMPTS = prompts_of(7, 1, 20, 3)
ENDS = list(range(3, VOCABULARY, 15))  # so many that random models come to one


@pytest.fixture(scope="module")
def llm(folder: Path) -> LLM:
    found = LLM(folder, device="cpu", block_size=4)
    found.defaults = replace(found.defaults, end_ids=frozenset(ENDS))
    return found


def beams(width: int = 4, tokens: int = 12, **more: Any) -> SamplingParams:
    return SamplingParams(num_beams=width, max_tokens=tokens, **more)


def theirs(folder: Path, prompt: list[int], params: SamplingParams, **more: Any) -> list[tuple[tuple[int, ...], float]]:
    """Answers without what fills them up, and their scores."""
    found = theirs_of(folder).generate(
        torch.tensor([prompt]), num_beams=params.num_beams, max_new_tokens=params.max_tokens, do_sample=False,
        length_penalty=params.length_penalty, early_stopping=params.early_stopping, num_return_sequences=params.n,
        eos_token_id=ENDS, pad_token_id=0, return_dict_in_generate=True, output_scores=True, **more,
    )  # fmt: skip
    answers = []
    for tokens, score in zip(found.sequences[:, len(prompt) :].tolist(), found.sequences_scores.tolist(), strict=True):
        end = next((place + 1 for place, token in enumerate(tokens) if token in ENDS), len(tokens))
        answers.append((tuple(tokens[:end]), score))
    return answers


def ours(llm: LLM, prompts: list[list[int]], params: SamplingParams) -> list[list[tuple[tuple[int, ...], float]]]:
    return [
        [(one.token_ids, one.score or 0.0) for one in (output, *output.others)]
        for output in llm.generate(prompts, params)
    ]


def same(found: list[tuple[tuple[int, ...], float]], wanted: list[tuple[tuple[int, ...], float]]) -> None:
    assert [tokens for tokens, _ in found] == [tokens for tokens, _ in wanted]
    assert [score for _, score in found] == pytest.approx([score for _, score in wanted], rel=1e-5, abs=1e-4)


@pytest.mark.parametrize("early_stopping", [False, True, "never"])
@pytest.mark.parametrize("length_penalty", [1.0, 0.0, 2.5, -1.0])
def test_answers_and_scores_are_those_of_transformers(
    length_penalty: float, early_stopping: Any, llm: LLM, folder: Path
) -> None:
    params = beams(n=3, length_penalty=length_penalty, early_stopping=early_stopping)
    found = ours(llm, PROMPTS, params)
    for prompt, one in zip(PROMPTS, found, strict=True):
        same(one, theirs(folder, prompt, params))
    if length_penalty < 2:  # else the longest are the best
        assert {len(tokens) for one in found for tokens, _ in one} - {12}


@pytest.mark.parametrize("width", [2, 3, 8])
def test_widths_are_those_of_transformers(width: int, llm: LLM, folder: Path) -> None:
    params = beams(width, 9, n=width)
    for prompt, one in zip(PROMPTS, ours(llm, PROMPTS, params), strict=True):
        same(one, theirs(folder, prompt, params))


@pytest.mark.parametrize("name", ["gpt2", "mistral window", "bloom", "gemma2"])
def test_other_families_search_as_transformers_does(name: str, folder_of: Folder) -> None:
    folder = folder_of(name)
    llm = LLM(folder, device="cpu", block_size=4)
    llm.defaults = replace(llm.defaults, end_ids=frozenset(ENDS))
    params = beams(3, 10, n=2)
    for prompt, one in zip(PROMPTS, ours(llm, PROMPTS, params), strict=True):
        same(one, theirs(folder, prompt, params))


def test_penalties_bad_words_and_min_tokens_are_applied_as_transformers_does(llm: LLM, folder: Path) -> None:
    words = [[5], [7, 9], *([token] for token in range(100, 140))]
    params = beams(repetition_penalty=1.4, min_tokens=5, bad_words=words, n=2)
    for prompt, one in zip(PROMPTS, ours(llm, PROMPTS, params), strict=True):
        more: dict[str, Any] = {"repetition_penalty": 1.4, "min_new_tokens": 5, "bad_words_ids": words}
        same(one, theirs(folder, prompt, params, **more))


def batch_of(llm: LLM, num_blocks: int, sequences: int, shares: bool = True) -> Batch:
    return Batch(Runner(llm.model, num_blocks, 4), Limits(sequences, step_tokens=16, patience=4), shares)


def play(batch: Batch, sequences: list[Sequence]) -> None:
    for sequence in sequences:
        batch.add(sequence)
    while not batch.is_empty:
        batch.step()
    assert batch.cache_counts.blocks_used == 0


@pytest.mark.parametrize("shares", [True, False])
@pytest.mark.parametrize(("num_blocks", "seats"), [(200, 16), (20, 6), (22, 16), (20, 4)])
def test_few_blocks_and_few_seats_change_nothing(num_blocks: int, seats: int, shares: bool, llm: LLM) -> None:
    """Searches beside plain answers: beams are sent away, come again, and a search may wait for its last beam."""
    params = [beams(), GREEDY, beams(3), SamplingParams(seed=3, max_tokens=12), beams(early_stopping=True)]
    prompts = [PROMPTS[0], PROMPTS[2][:9], PROMPTS[3], PROMPTS[1], PROMPTS[3]]
    wanted = llm.generate(prompts, params)
    batch = batch_of(llm, num_blocks, seats, shares)
    sequences = [llm.sequence(prompt, one) for prompt, one in zip(prompts, params, strict=True)]
    play(batch, sequences)
    assert [sequence.output().token_ids for sequence in sequences] == [output.token_ids for output in wanted]
    assert num_blocks != 22 or batch.cache_counts.preempted > 0


def test_beams_take_over_what_an_earlier_prompt_left_in_the_cache(llm: LLM) -> None:
    batch = batch_of(llm, 60, 8)
    first, second = (llm.sequence(PROMPTS[2], params) for params in (GREEDY, beams(n=2)))
    play(batch, [first])
    before = batch.cache_counts.cached_tokens
    play(batch, [second])
    assert batch.cache_counts.cached_tokens - before == 16  # four of its five full blocks: the last token is fed
    assert second.output().token_ids == llm.generate(PROMPTS[2:3], beams(n=2))[0].token_ids


def test_searches_that_are_left_at_any_moment_leave_nothing_behind(llm: LLM) -> None:
    batch = batch_of(llm, 60, 8)
    other = llm.sequence(PROMPTS[0], GREEDY)
    batch.add(other)
    for steps in range(8):
        left = llm.sequence(PROMPTS[2], beams())
        batch.add(left)
        for _ in range(steps):
            batch.step()
        batch.remove(left)
    play(batch, [])
    assert other.output() == llm.generate(PROMPTS[:1], GREEDY)[0]


def test_a_search_whose_time_is_up_ends_once(llm: LLM) -> None:
    batch = batch_of(llm, 60, 8)
    late = llm.sequence(PROMPTS[0], beams())
    batch.add(late)
    for _ in range(4):
        batch.step()
    for sequence in batch._searches:
        sequence.deadline = 0.0
    ((sequence, error),) = batch.step()
    assert sequence is late
    assert isinstance(error, GenerationError)
    assert batch.is_empty
    assert batch.cache_counts.blocks_used == 0


def test_a_beam_whose_numbers_are_damaged_ends_its_search_and_no_other(llm: LLM) -> None:
    batch = batch_of(llm, 60, 8)
    bad, good = (llm.sequence(prompt, beams()) for prompt in PROMPTS[:3:2])
    batch.add(bad)
    for _ in range(3):
        batch.step()
    ticket = batch._scheduler._tickets[next(beam for beam, search in batch._searches.items() if search.head is bad)]
    for slab in (*batch._runner.cache.keys, *batch._runner.cache.values):
        slab[list(ticket.blocks)] = torch.nan
    batch.add(good)
    events = batch.step()
    assert [sequence for sequence, event in events if isinstance(event, GenerationError)].count(bad) >= 1
    play(batch, [])
    assert good.output().token_ids == llm.generate(PROMPTS[2:3], beams())[0].token_ids


def test_a_form_a_stop_text_and_logprobs_go_with_beams(llm: LLM) -> None:
    what = StructuredOutputs(regex="[a-e]{2,6}(x|yz)")
    outputs = llm.generate(["A"], beams(tokens=20, n=3, structured_outputs=what, logprobs=1))
    for one in (outputs[0], *outputs[0].others):
        assert one.finish_reason == "stop"
        assert set(one.text) <= set("abcdexyz")
        assert len(one.logprobs) == len(one.token_ids)
    best = llm.generate(["A"], beams(tokens=30))[0]
    stop = best.text[2:4]
    for one in llm.generate(["A"], beams(tokens=30, stop=[stop])):
        assert stop not in one.text


def test_a_stream_gives_the_best_in_one_piece(llm: LLM) -> None:
    (piece,) = llm.stream("A", beams())
    output = llm.generate(["A"], beams())[0]
    assert (piece.text, piece.token_ids, piece.finish_reason) == (output.text, output.token_ids, output.finish_reason)


def test_a_search_that_can_never_fit_is_refused_with_its_size(llm: LLM, folder: Path) -> None:
    with pytest.raises(GenerationError, match=r"num_beams=17 take .* 17 seats, and there are .* 16"):
        llm.sequence("A", beams(17, 5))
    small = LLM(folder, device="cpu", block_size=4, num_blocks=8)
    with pytest.raises(GenerationError, match=r"num_beams=3 take 9 blocks .* and there are 8"):
        small.sequence([1, 2, 3, 4], beams(3, 6))
    assert small.sequence([1, 2, 3, 4], replace(beams(3), max_tokens=None)).max_tokens == 5
    every = [[id] for id in range(VOCABULARY)]
    with pytest.raises(GenerationError, match="forbidden to every beam"):
        llm.generate(["A"], beams(bad_words=every))

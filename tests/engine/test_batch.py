"""A batch in which anyone joins and leaves at any moment, on few blocks: each answer is the one it is alone."""

import random
from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hanbit.common.errors import DeadlinePassed, GenerationError
from hanbit.engine.batch import Batch, Event
from hanbit.engine.drafts import Drafts
from hanbit.engine.llm import LLM
from hanbit.engine.parts import Limits
from hanbit.engine.runner import Runner
from hanbit.engine.sampling_params import SamplingParams
from hanbit.engine.sequence import Sequence
from tests.engine.conftest import Folder
from tests.engine.test_llm import prompts_of

SIZE, BLOCKS = 4, 20
BEGINNING = prompts_of(13)[0]
PROMPTS = [*prompts_of(1, 2, 5, 9, 14), *([*BEGINNING, *end] for end in prompts_of(1, 4, 18))]
LENGTHS = (1, 2, 7, 13, 20)
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 2 * len(PROMPTS) - 1), st.sampled_from(LENGTHS)),
        st.tuples(st.just("remove"), st.integers(0, 30), st.just(0)),
        st.tuples(st.just("step"), st.integers(1, 6), st.just(0)),
    ),
    max_size=25,
)


def params_of(number: int, length: int) -> SamplingParams:
    """Greedy for the first half of the numbers, drawn by a seed for the others."""
    if number < len(PROMPTS):
        return SamplingParams(temperature=0, max_tokens=length, ignore_eos=True)
    return SamplingParams(temperature=0.8, top_p=0.9, seed=number, max_tokens=length, ignore_eos=True)


@pytest.fixture(scope="module")
def llms(folder_of: Folder) -> dict[str, LLM]:
    return {
        name: LLM(folder_of(name), device="cpu", enable_prefix_caching=False) for name in ("llama", "mistral window")
    }


@pytest.fixture(scope="module")
def alone(llms: dict[str, LLM]) -> dict[tuple[str, int], tuple[int, ...]]:
    """The answer to each prompt by itself, in a cache that shares nothing, as long as any is asked for."""
    return {
        (name, number): llm.generate([PROMPTS[number % len(PROMPTS)]], params_of(number, max(LENGTHS)))[0].token_ids
        for name, llm in llms.items()
        for number in range(2 * len(PROMPTS))
    }


def batch_of(
    llm: LLM, num_blocks: int = BLOCKS, sequences: int = 3, shares: bool = True, drafts: Drafts | None = None
) -> Batch:
    limits = Limits(sequences, step_tokens=16, patience=4)
    return Batch(Runner(llm.model, num_blocks, SIZE), limits, shares, drafts)


class Greedily:
    """Guesses the greedy answers: right for some, wrong for who draws."""

    def __init__(self, answers: dict[tuple[int, ...], tuple[int, ...]]) -> None:
        self._answers = answers

    def guess(self, wanted: Mapping[Sequence, int]) -> Mapping[Sequence, list[int]]:
        begun = {sequence: len(sequence.answer) for sequence in wanted}
        return {one: list(self._answers[one.prompt][begun[one] : begun[one] + count]) for one, count in wanted.items()}

    def forget(self, sequence: Sequence) -> None: ...


@pytest.mark.parametrize(("shares", "guesses"), [(True, False), (False, False), (True, True)])
@pytest.mark.parametrize("name", ["llama", "mistral window"])
def test_any_order_of_joining_and_leaving_gives_each_answer_as_it_is_alone(
    name: str, shares: bool, guesses: bool, llms: dict[str, LLM], alone: dict[tuple[str, int], tuple[int, ...]]
) -> None:
    greedy = {tuple(prompt): alone[name, number] for number, prompt in enumerate(PROMPTS)}

    @settings(max_examples=40, deadline=None)
    @given(ACTIONS)
    def play(actions: list[tuple[str, int, int]]) -> None:
        drafts = Drafts(Greedily(greedy), 5) if guesses else None
        batch = batch_of(llms[name], shares=shares, drafts=drafts)
        here: dict[Sequence, int] = {}
        for action, number, length in actions:
            if action == "add":
                sequence = llms[name].sequence(PROMPTS[number % len(PROMPTS)], params_of(number, length))
                here[sequence] = number
                batch.add(sequence)
            elif action == "remove" and here:
                sequence = list(here)[number % len(here)]
                del here[sequence]
                batch.remove(sequence)
            elif action == "step":
                for _ in range(number):
                    take(batch.step(), here)
        while not batch.is_empty:
            take(batch.step(), here)
        assert not here
        assert batch.cache_counts.blocks_used == 0

    def take(events: list[Event], here: dict[Sequence, int]) -> None:
        for sequence, event in events:
            assert not isinstance(event, GenerationError)
            if event.finish_reason is not None:
                tokens = sequence.output().token_ids
                assert tokens == alone[name, here.pop(sequence)][: sequence.max_tokens]

    play()


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_fifty_long_requests_on_eight_blocks_end_with_the_tokens_of_a_large_cache(
    temperature: float, llms: dict[str, LLM]
) -> None:
    llm, batch = llms["llama"], batch_of(llms["llama"], num_blocks=8, sequences=16)
    prompts = [[number, *PROMPTS[number % 5][:7]] for number in range(50)]
    params = [
        SamplingParams(temperature=temperature, seed=number, max_tokens=24 - number % 5, ignore_eos=True)
        for number in range(50)
    ]
    sequences = [llm.sequence(prompt, one) for prompt, one in zip(prompts, params, strict=True)]
    for sequence in sequences:
        batch.add(sequence)
    while not batch.is_empty:
        batch.step()
    counts = batch.cache_counts
    assert counts.preempted > 0
    assert (counts.blocks, counts.blocks_used) == (8, 0)
    assert [sequence.output() for sequence in sequences] == llm.generate(prompts, params)


def test_a_shared_beginning_is_computed_once(llms: dict[str, LLM]) -> None:
    llm, batch = llms["llama"], batch_of(llms["llama"], num_blocks=60, sequences=16)
    params = SamplingParams(temperature=0, max_tokens=5, ignore_eos=True)
    prompts = [[*BEGINNING, number] for number in range(8)]
    sequences = [llm.sequence(prompt, params) for prompt in prompts]
    for sequence in sequences:
        batch.add(sequence)
    while not batch.is_empty:
        batch.step()
    assert batch.cache_counts.cached_tokens == 7 * 12  # three blocks each
    assert [sequence.output() for sequence in sequences] == llm.generate(prompts, params)


def test_a_hundred_who_leave_at_random_moments_leave_nothing_behind(llms: dict[str, LLM]) -> None:
    llm, batch, chance = llms["llama"], batch_of(llms["llama"], num_blocks=30, sequences=5), random.Random(7)
    params = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True)
    here: list[Sequence] = []
    for _ in range(100):
        here += [llm.sequence(chance.choice(PROMPTS), params) for _ in range(3)]
        for sequence in here[-3:]:
            batch.add(sequence)
        for _ in range(chance.randrange(4)):
            batch.step()
        batch.remove(here.pop(chance.randrange(len(here))))
    for sequence in here:
        batch.remove(sequence)
    assert batch.is_empty
    assert batch.cache_counts.blocks_used == 0


def test_an_answer_whose_time_is_up_ends_with_that_reason_and_frees_its_blocks(llms: dict[str, LLM]) -> None:
    llm, batch = llms["llama"], batch_of(llms["llama"], sequences=1)
    params = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True)
    running, waiting = (llm.sequence("The", params, deadline=deadline) for deadline in (None, 0.0))
    for sequence in (running, waiting):
        batch.add(sequence)
    events = dict(batch.step())
    assert isinstance(events[waiting], DeadlinePassed)
    assert "after 0 of at most 20 tokens" in str(events[waiting])
    running.deadline = 0.0
    assert isinstance(dict(batch.step())[running], DeadlinePassed)
    assert batch.is_empty
    assert batch.cache_counts.blocks_used == 0


def test_a_block_that_held_no_numbers_does_no_harm_to_the_next(llms: dict[str, LLM]) -> None:
    llm = llms["llama"]
    params = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True)
    batch = batch_of(llm, num_blocks=16, sequences=2)
    bad, other, next_one = (llm.sequence(PROMPTS[number], params) for number in (4, 3, 4))
    batch.add(bad)
    batch.add(other)
    batch.step()
    (ticket,) = (ticket for ticket in batch._scheduler._running if ticket.request is bad)
    for slab in (*batch._runner.cache.keys, *batch._runner.cache.values):
        slab[list(ticket.blocks)] = torch.nan
    events = dict(batch.step())
    assert isinstance(events[bad], GenerationError)
    assert "not numbers" in str(events[bad])
    batch.add(next_one)  # begins like the bad one, and gets nothing of it
    while not batch.is_empty:
        batch.step()
    for sequence, number in ((other, 3), (next_one, 4)):
        assert sequence.output() == llm.generate([PROMPTS[number]], params)[0]
    assert batch.cache_counts.cached_tokens == 0

"""A batch in which anyone joins and leaves at any moment: rows stay packed, and each answer is the one it is alone."""

from collections import deque

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hanbit.common.errors import GenerationError
from hanbit.engine import batch as batch_module
from hanbit.engine.batch import Batch
from hanbit.engine.llm import LLM
from hanbit.engine.runner import Runner
from hanbit.engine.sampling_params import SamplingParams
from hanbit.engine.sequence import Sequence
from tests.engine.conftest import Folder
from tests.engine.test_llm import prompts_of

ROWS, CAPACITY = 3, 64
PROMPTS = prompts_of(1, 2, 5, 9, 14, 23, 31)
LENGTHS = (1, 2, 7, 13, 20)
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, len(PROMPTS) - 1), st.sampled_from(LENGTHS)),
        st.tuples(st.just("remove"), st.integers(0, 30), st.just(0)),
        st.tuples(st.just("step"), st.integers(1, 6), st.just(0)),
    ),
    max_size=25,
)


@pytest.fixture(scope="module")
def llms(folder_of: Folder) -> dict[str, LLM]:
    return {name: LLM(folder_of(name), device="cpu") for name in ("llama", "mistral window")}


@pytest.fixture(scope="module")
def alone(llms: dict[str, LLM]) -> dict[tuple[str, int], tuple[int, ...]]:
    """The greedy answer to each prompt by itself, as long as any is asked for."""
    params = SamplingParams(temperature=0, max_tokens=max(LENGTHS), ignore_eos=True)
    return {
        (name, index): llm.generate([prompt], params)[0].token_ids
        for name, llm in llms.items()
        for index, prompt in enumerate(PROMPTS)
    }


@pytest.mark.parametrize("name", ["llama", "mistral window"])
def test_any_order_of_joining_and_leaving_gives_each_answer_as_it_is_alone(
    name: str, llms: dict[str, LLM], alone: dict[tuple[str, int], tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_module, "PREFILL_TOKENS", 16)

    @settings(max_examples=40, deadline=None)
    @given(ACTIONS)
    def play(actions: list[tuple[str, int, int]]) -> None:
        batch = Batch(Runner(llms[name].model, ROWS, CAPACITY), patience=4)
        for slab in (*batch._runner.cache.keys, *batch._runner.cache.values):
            slab.fill_(torch.nan)  # what fresh memory may hold
        here: dict[Sequence, int] = {}
        for action, number, length in actions:
            if action == "add":
                params = SamplingParams(temperature=0, max_tokens=length, ignore_eos=True)
                sequence = llms[name].sequence(PROMPTS[number], params)
                here[sequence] = number
                batch.add(sequence)
            elif action == "remove" and here:
                sequence = list(here)[number % len(here)]
                del here[sequence]
                batch.remove(sequence)
            elif action == "step":
                for _ in range(number):
                    take(batch.step(), here)
            check_rows(batch, here)
        while not batch.is_empty:
            take(batch.step(), here)
            check_rows(batch, here)
        assert not here

    def take(events: list[batch_module.Event], here: dict[Sequence, int]) -> None:
        for sequence, event in events:
            assert not isinstance(event, GenerationError)
            if event.finish_reason is not None:
                tokens = sequence.output().token_ids
                assert tokens == alone[name, here.pop(sequence)][: sequence.max_tokens]

    def check_rows(batch: Batch, here: dict[Sequence, int]) -> None:
        """Those here are the ones that answer, read and wait, in rows without a hole."""
        assert batch.num_running <= ROWS
        assert batch.num_running + len(batch._waiting) == len(here)
        assert {*batch._answering, *batch._waiting} | ({batch._reading} - {None}) == set(here)

    play()


def test_a_long_prompt_is_read_between_the_steps_of_running_answers(llms: dict[str, LLM]) -> None:
    llm = llms["llama"]
    params = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True)
    batch = Batch(Runner(llm.model, 2, CAPACITY), patience=4)
    running, long = llm.sequence("The", params), llm.sequence(PROMPTS[-1], params)
    batch.add(running)
    batch.step()
    batch.add(long)
    talkers: deque[Sequence] = deque()
    for _ in range(16):
        talkers.extend(sequence for sequence, _ in batch.step())
    assert list(talkers)[:9] == [running] * 8 + [long]  # 31 tokens in parts of 4, a step of the other before each


def test_a_row_that_held_no_numbers_does_no_harm_to_the_next(llms: dict[str, LLM]) -> None:
    llm = llms["llama"]
    params = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True)
    batch = Batch(Runner(llm.model, 2, CAPACITY))
    bad, other, next_one = (llm.sequence(PROMPTS[index], params) for index in (4, 6, 1))
    batch.add(other)
    batch.add(bad)
    batch.step()
    for slab in (*batch._runner.cache.keys, *batch._runner.cache.values):
        slab[1, :10] = torch.nan
    events = dict(batch.step())
    assert isinstance(events[bad], GenerationError)
    assert "not numbers" in str(events[bad])
    batch.add(next_one)
    while not batch.is_empty:
        batch.step()
    for sequence, index in ((other, 6), (next_one, 1)):
        assert sequence.output() == llm.generate([PROMPTS[index]], params)[0]

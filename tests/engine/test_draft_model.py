"""A smaller model guesses: the larger one's answers stay its own, and its cache gives back what it took."""

import copy
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from hanbit.common.errors import GenerationError, ModelError
from hanbit.engine.batch import Batch
from hanbit.engine.draft_model import ModelGuesser
from hanbit.engine.drafts import Drafts
from hanbit.engine.llm import LLM
from hanbit.engine.parts import Limits
from hanbit.engine.runner import Runner
from hanbit.engine.sampling_params import SamplingParams
from hanbit.engine.sequence import Sequence
from hanbit.engine.speculation import Speculation
from hanbit.tokenizers import train
from tests.engine.folders import VOCABULARY, write_tokenizer
from tests.engine.test_llm import prompts_of
from tests.engine.test_speculation import SIZE, answered
from tests.models.shapes import CONFIGS, shake

PROMPTS = prompts_of(3, 9, 20, 14)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half as deep as `folder`, of other numbers, with a shorter context and fewer rows of padding."""
    path = tmp_path_factory.mktemp("small")
    config = copy.deepcopy(CONFIGS["llama"])
    config.vocab_size, config.num_hidden_layers, config.max_position_embeddings = VOCABULARY - 2, 1, 32
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    shake(model)
    model.save_pretrained(path)
    write_tokenizer(path)
    return path


@pytest.fixture(scope="module")
def plain(folder: Path) -> LLM:
    return LLM(folder, device="cpu", enable_prefix_caching=False)


@pytest.fixture(scope="module")
def draft(small: Path) -> LLM:
    return LLM(small, device="cpu")


def drafted(folder: Path, draft: Path, most: int = 5) -> LLM:
    speculation = Speculation("draft", num_speculative_tokens=most, draft_model=draft)
    return LLM(folder, device="cpu", speculation=speculation)


def guesser_of(draft: LLM, num_blocks: int, step_tokens: int = 1024) -> ModelGuesser:
    return ModelGuesser(Runner(draft.model, num_blocks, SIZE), step_tokens, draft.context, VOCABULARY - 2)


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=0, max_tokens=24, ignore_eos=True),
        SamplingParams(seed=7, temperature=1.2, top_p=0.9, max_tokens=24, ignore_eos=True, repetition_penalty=1.2),
    ],
    ids=["greedy", "drawn"],
)
def test_whatever_a_small_model_guesses_the_answers_are_the_large_ones(
    params: SamplingParams, folder: Path, small: Path, plain: LLM
) -> None:
    llm = drafted(folder, small)
    assert llm.generate(PROMPTS, params) == plain.generate(PROMPTS, params)
    assert llm.speculation_counts.draft_tokens > 0
    assert llm.cache_counts.blocks_used == 0


def test_a_model_that_guesses_for_itself_is_always_right(folder: Path, plain: LLM) -> None:
    llm = drafted(folder, folder)
    params = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)
    assert llm.generate(PROMPTS, params) == plain.generate(PROMPTS, params)
    counts = llm.speculation_counts
    assert counts.accepted_tokens == counts.draft_tokens > 0
    assert counts.accepted_tokens + counts.drafts >= len(PROMPTS) * 39 - 8  # 4, then 5 at a time


def test_a_small_models_guess_is_what_it_would_answer_itself_behind_right_and_wrong_ones(draft: LLM) -> None:
    """Against reading the whole text anew each time."""
    params = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True)
    guesser, numbers = guesser_of(draft, 40), random.Random(1)
    sequences = [draft.sequence(prompt[:8], params) for prompt in PROMPTS[:3]]
    for _ in range(6):
        wanted = {sequence: numbers.randrange(1, 5) for sequence in sequences if numbers.random() < 0.8}
        for sequence, guess in guesser.guess(wanted).items():
            assert len(guess) == wanted[sequence]
            text = [*sequence.prompt, *sequence.answer]
            (alone,) = draft.generate([text], replace(params, max_tokens=len(guess)))
            assert guess == list(alone.token_ids)
            for token in [*guess[: numbers.randrange(len(guess) + 1)], numbers.randrange(390)][:3]:
                sequence.accept(token)
    for sequence in sequences:
        guesser.forget(sequence)
    assert guesser.blocks.num_used == 0


def test_texts_that_are_read_in_parts_or_do_not_fit_are_guessed_for_later_or_not(draft: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True)
    first, second, long = (draft.sequence(prompt, params) for prompt in (PROMPTS[1], PROMPTS[2], [1] * 12))
    guesser = guesser_of(draft, 9, step_tokens=16)
    found = guesser.guess({first: 3, second: 3})  # 9 and 20 tokens, 16 a step
    assert set(found) == {first}
    assert set(guesser.guess({second: 3})) == {second}
    assert guesser.blocks.num_used == 3 + 6
    assert guesser.guess({long: 3, second: 3}).keys() == {second}  # 4 blocks for it, and 3 are free without the first's
    wide = guesser_of(draft, 40)
    over = draft.sequence([1] * 30, params)
    assert len(wide.guess({over: 9})[over]) == 3  # a context of 32
    assert wide.blocks.num_used == 8
    over.accept(VOCABULARY - 1)  # no row of the small model's
    assert wide.guess({over: 2}) == {}
    assert wide.blocks.num_used == 0


def test_a_text_beyond_the_small_models_context_gives_its_room_back_to_others(draft: LLM, plain: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True)
    first, long = plain.sequence(PROMPTS[1], params), plain.sequence([1] * 32, params)
    guesser = guesser_of(draft, 9)
    assert set(guesser.guess({long: 3})) == {long}
    assert guesser.guess({first: 3, long: 3}).keys() == {long}  # 8 of 9 blocks are the long one's
    long.accept(5)
    assert guesser.guess({first: 3, long: 3}).keys() == {first}
    assert (guesser.blocks.num_used, guesser.blocks.num_free) == (3, 6)


def test_answers_that_leave_the_small_models_context_leave_no_room_taken(plain: LLM, draft: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)
    guesser = guesser_of(draft, 10)
    batch = Batch(Runner(plain.model, 40, SIZE), Limits(4, 40, 8), drafts=Drafts(guesser, 4))
    sequences = [plain.sequence(prompt, params) for prompt in PROMPTS[:3]]
    for sequence in sequences:
        batch.add(sequence)
    while not batch.is_empty:
        batch.step()
        assert guesser.blocks.num_used + guesser.blocks.num_free == 10
        assert guesser.blocks.num_used == sum(len(text.blocks) for text in guesser._texts.values())
    assert guesser.blocks.num_used == 0
    assert [sequence.output() for sequence in sequences] == plain.generate(PROMPTS[:3], params)


@pytest.mark.parametrize("seed", range(4))
def test_any_order_of_joining_and_leaving_gives_each_answer_as_it_is_alone(seed: int, plain: LLM, draft: LLM) -> None:
    numbers = random.Random(seed)
    params = [
        SamplingParams(temperature=0.7 * (number % 2), seed=number, max_tokens=4 + number, ignore_eos=True)
        for number in range(16)
    ]
    prompts = [[*PROMPTS[number % 4][:11], number] for number in range(16)]
    wanted = plain.generate(prompts, params)
    guesser = guesser_of(draft, 10, step_tokens=20)
    batch = Batch(Runner(plain.model, 16, SIZE), Limits(4, 40, 8), drafts=Drafts(guesser, 4))
    here: dict[Sequence, int] = {}
    left = list(range(16))
    while left or not batch.is_empty:
        action = numbers.randrange(6)
        if action == 0 and left:
            number = left.pop()
            sequence = plain.sequence(prompts[number], params[number])
            here[sequence] = number
            batch.add(sequence)
        elif action == 1 and here and numbers.random() < 0.2:
            sequence = numbers.choice(list(here))
            del here[sequence]
            batch.remove(sequence)
        else:
            for sequence, event in batch.step():
                assert not isinstance(event, GenerationError)
                if event.finish_reason is not None:
                    assert sequence.output() == wanted[here.pop(sequence)]
        used = sum(len(text.blocks) for text in guesser._texts.values())
        assert guesser.blocks.num_used == used
        assert guesser.blocks.num_used + guesser.blocks.num_free == 10
    assert guesser.blocks.num_used == batch.cache_counts.blocks_used == 0
    assert batch.speculation_counts.draft_tokens > 0


def test_other_tokens_are_refused_by_name_before_the_weights(folder: Path, small: Path, tmp_path: Path) -> None:
    shutil.copytree(small, tmp_path / "other")
    (tmp_path / "other/model.safetensors").unlink()
    train.save(train.train(["Another language altogether."] * 5, 300), tmp_path / "other")
    with pytest.raises(ModelError, match=r"draft model .*other: token '.*' has id .*, and .* in .*tokens"):
        drafted(folder, tmp_path / "other")
    with pytest.raises(GenerationError, match="draft_model=None must be a model's folder for speculation=draft"):
        Speculation("draft")
    with pytest.raises(GenerationError, match="draft_model='x' must be"):
        Speculation("prompt_lookup", draft_model="x")


def test_a_guesser_that_fails_is_done_without(plain: LLM, caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def guess(self, wanted: object) -> dict[Sequence, list[int]]:
            raise RuntimeError("out of luck")

        def forget(self, sequence: Sequence) -> None: ...

    params = SamplingParams(temperature=0, max_tokens=9, ignore_eos=True)
    batch = Batch(Runner(plain.model, 16, SIZE), Limits(4, 40, 8), drafts=Drafts(Broken(), 4))
    sequence = plain.sequence(PROMPTS[0], params)
    answered(batch, [sequence])
    assert sequence.output() == plain.generate([PROMPTS[0]], params)[0]
    assert caplog.text.count("answers go on without it") == 1

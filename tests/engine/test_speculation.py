"""Answers with guesses are the answers without, token for token: drawn or not, however they are asked for."""

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hanbit.common.errors import GenerationError
from hanbit.convert.convert import convert
from hanbit.engine.batch import Batch
from hanbit.engine.drafts import Drafts
from hanbit.engine.llm import LLM
from hanbit.engine.parts import Limits
from hanbit.engine.runner import Runner
from hanbit.engine.sampling_params import SamplingParams
from hanbit.engine.sequence import Sequence
from hanbit.engine.speculation import Speculation
from hanbit.engine.structured_outputs import StructuredOutputs
from hanbit.kernels.library import native
from tests.convert.gguf_models import ROWS, write_gguf
from tests.engine.conftest import Folder
from tests.engine.feeding import Rows
from tests.engine.test_adapters import write_adapter
from tests.engine.test_llm import prompts_of

SIZE = 4
LOOKUP = Speculation("prompt_lookup", num_speculative_tokens=6, prompt_lookup_max=3, prompt_lookup_min=1)


class SomeRight:
    """Guesses out of the known answers, some of whose tokens are wrong: every way of being right and wrong comes."""

    def __init__(self, answers: Mapping[tuple[int, ...], tuple[int, ...]], share: float) -> None:
        self._answers, self._share, self._numbers = answers, share, random.Random(3)

    def guess(self, wanted: Mapping[Sequence, int]) -> Mapping[Sequence, list[int]]:
        return {sequence: self._of(sequence, count) for sequence, count in wanted.items()}

    def forget(self, sequence: Sequence) -> None: ...

    def _of(self, sequence: Sequence, count: int) -> list[int]:
        begun = len(sequence.answer)
        right = self._answers[sequence.prompt][begun : begun + count]
        return [token if self._numbers.random() < self._share else (token + 1) % 400 for token in right]


PARAMS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "drawn": {"seed": 3, "temperature": 1.3},
    "nucleus": {"seed": 4, "top_p": 0.8, "top_k": 30, "min_p": 0.01},
    "factual": {"seed": 5, "top_p": 0.9, "top_p_decay": 0.7, "top_p_min": 0.1, "top_p_reset_ids": [1, 2, 3]},
    "penalties": {"temperature": 0, "repetition_penalty": 1.3, "presence_penalty": 0.4, "frequency_penalty": 0.3},
    "drawn penalties": {"seed": 6, "frequency_penalty": 1.0, "repetition_penalty": 1.1},
    "bias": {"seed": 7, "logit_bias": {5: 4.0, 9: -100.0}},
    "bad words": {"temperature": 0, "bad_words": [[7], [100, 20], "the"]},
    "min tokens": {"temperature": 0, "min_tokens": 9, "ignore_eos": False},
    "form": {"seed": 8, "structured_outputs": StructuredOutputs(regex="[a-z ]{40}"), "ignore_eos": False},
    "logprobs": {"temperature": 0, "logprobs": 2},
    "prompt logprobs": {"seed": 2, "logprobs": 1, "prompt_logprobs": 2},
}
PROMPTS = [prompt * 2 for prompt in prompts_of(3, 9, 14)]


def params_of(name: str, length: int = 24) -> SamplingParams:
    return SamplingParams(**{"max_tokens": length, "ignore_eos": True, **PARAMS[name]})


def batch_of(llm: LLM, guesser: SomeRight, num_blocks: int = 80, sequences: int = 4) -> Batch:
    return Batch(Runner(llm.model, num_blocks, SIZE), Limits(sequences, 64, 8), drafts=Drafts(guesser, 6))


@pytest.fixture(scope="module")
def plain(folder: Path) -> LLM:
    return LLM(folder, device="cpu", enable_prefix_caching=False)


def answered(batch: Batch, sequences: list[Sequence]) -> None:
    for sequence in sequences:
        batch.add(sequence)
    while not batch.is_empty:
        for _, event in batch.step():
            assert not isinstance(event, GenerationError), event
    assert batch.cache_counts.blocks_used == 0


@pytest.mark.parametrize("share", [1.0, 0.6])
@pytest.mark.parametrize("name", PARAMS)
def test_an_answer_with_guesses_is_the_one_without(name: str, share: float, plain: LLM) -> None:
    params = params_of(name)
    wanted = plain.generate(PROMPTS, params)
    answers = {output.prompt_token_ids: output.token_ids for output in wanted}
    batch = batch_of(plain, SomeRight(answers, share))
    sequences = [plain.sequence(prompt, params) for prompt in PROMPTS]
    answered(batch, sequences)
    for sequence, output in zip(sequences, wanted, strict=True):
        found = sequence.output()
        assert (found.text, found.token_ids, found.finish_reason) == (
            output.text,
            output.token_ids,
            output.finish_reason,
        )
        for one, other in zip(found.logprobs, output.logprobs, strict=True):
            assert one.token_id == other.token_id
            assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
        assert len(found.prompt_logprobs) == len(output.prompt_logprobs)
    counts = batch.speculation_counts
    assert 0 < counts.accepted_tokens <= counts.draft_tokens
    assert (counts.accepted_tokens == counts.draft_tokens) == (share == 1)
    assert sum(counts.accepted_by_position) == counts.accepted_tokens
    assert list(counts.accepted_by_position) == sorted(counts.accepted_by_position, reverse=True)


@pytest.mark.parametrize("name", ["gpt2", "mistral window", "mixtral", "bloom", "gemma2", "gptj"])
def test_every_kind_of_attention_takes_guesses(name: str, folder_of: Folder) -> None:
    llm = LLM(folder_of(name), device="cpu", enable_prefix_caching=False)
    params = params_of("greedy", 30)
    wanted = llm.generate(PROMPTS, params)
    batch = batch_of(llm, SomeRight({output.prompt_token_ids: output.token_ids for output in wanted}, 0.8))
    sequences = [llm.sequence(prompt, params) for prompt in PROMPTS]
    answered(batch, sequences)
    assert [sequence.output().token_ids for sequence in sequences] == [output.token_ids for output in wanted]
    assert batch.speculation_counts.accepted_tokens > 0


@pytest.mark.parametrize("name", ["greedy", "drawn"])
def test_fifty_on_few_blocks_get_the_answers_of_a_large_cache(name: str, plain: LLM) -> None:
    params = [params_of(name, 24 - number % 5) for number in range(50)]
    prompts = [[number, *PROMPTS[number % 3][:7]] for number in range(50)]
    wanted = plain.generate(prompts, params)
    guesser = SomeRight({output.prompt_token_ids: output.token_ids for output in wanted}, 0.8)
    batch = batch_of(plain, guesser, num_blocks=12, sequences=16)
    sequences = [plain.sequence(prompt, one) for prompt, one in zip(prompts, params, strict=True)]
    answered(batch, sequences)
    assert [sequence.output() for sequence in sequences] == wanted
    assert batch.cache_counts.preempted > 0


def test_stop_texts_end_an_answer_within_a_guess_and_pieces_are_those_of_one_token(folder: Path, plain: LLM) -> None:
    llm = LLM(folder, device="cpu", speculation=LOOKUP)
    few = dict.fromkeys((3, 70, 90), 100.0)  # a text that repeats itself
    drawn = SamplingParams(seed=3, temperature=2.0, max_tokens=40, ignore_eos=True, logit_bias=few)
    greedy = replace(drawn, temperature=0)
    stop = plain.generate([PROMPTS[1]], drawn)[0].text[20:23]
    for one in (drawn, greedy, replace(drawn, stop=stop), replace(greedy, stop=stop)):
        assert list(llm.stream(PROMPTS[1], one)) == list(plain.stream(PROMPTS[1], one))
    assert llm.speculation_counts.accepted_tokens > 0
    assert llm.cache_counts.blocks_used == 0


def test_several_answers_and_beams_are_those_without(folder: Path, plain: LLM) -> None:
    llm = LLM(folder, device="cpu", speculation=LOOKUP)
    for params in (
        SamplingParams(seed=1, n=3, max_tokens=16, ignore_eos=True),
        SamplingParams(seed=1, n=2, best_of=4, max_tokens=16, ignore_eos=True),
        SamplingParams(num_beams=3, n=2, max_tokens=12, ignore_eos=True),
    ):
        for found, wanted in zip(llm.generate(PROMPTS, params), plain.generate(PROMPTS, params), strict=True):
            assert [one.token_ids for one in (found, *found.others)] == [
                one.token_ids for one in (wanted, *wanted.others)
            ]


def test_sequences_with_and_without_adapters_are_guessed_for_in_one_batch(folder: Path, tmp_path: Path) -> None:
    llm = LLM(folder, device="cpu", enable_prefix_caching=False)
    write_adapter(folder, tmp_path, 1, ["q_proj", "v_proj", "down_proj"])
    llm.add_adapter("polite", tmp_path)
    params, names = params_of("drawn"), (None, "polite", None)
    wanted = [llm.generate([one], params, adapter=name)[0] for one, name in zip(PROMPTS, names, strict=True)]
    batch = batch_of(llm, SomeRight({output.prompt_token_ids: output.token_ids for output in wanted}, 0.7))
    sequences = [llm.sequence(one, params, adapter=name) for one, name in zip(PROMPTS, names, strict=True)]
    answered(batch, sequences)
    assert [sequence.output() for sequence in sequences] == wanted
    assert 0 < batch.speculation_counts.accepted_tokens < batch.speculation_counts.draft_tokens


@pytest.mark.skipif(native() is None, reason="native kernels")
def test_with_blocks_rows_behind_a_guess_are_those_of_single_tokens_to_the_last_bit(tmp_path: Path) -> None:
    convert(write_gguf(tmp_path / "a.gguf", "llama"), tmp_path / "model", keep_blocks=True, proof=False)
    rows = Rows(LLM(tmp_path / "model", device="cpu").model, 2, 40)
    tokens = torch.randint(ROWS, (30,), generator=torch.Generator().manual_seed(3)).tolist()
    for row in (0, 1):
        rows.prefill(row, tokens[:20], 0, 20)
    single = torch.stack([rows.decode([3, tokens[place]], [20, place])[1] for place in range(20, 30)])
    part = replace(rows.part(0, tokens[:21], 20, 21), draft=tuple(tokens[21:]))
    (together,) = rows.feed([part])
    assert together is not None
    assert torch.equal(together, single)


def test_nothing_is_guessed_while_many_answers_grow(plain: LLM) -> None:
    params = params_of("greedy")
    wanted = plain.generate(PROMPTS, params)
    answers = {output.prompt_token_ids: output.token_ids for output in wanted}
    for crowd, some in ((2, False), (4, True), (None, True)):
        drafts = Drafts(SomeRight(answers, 1.0), 6, crowd)
        batch = Batch(Runner(plain.model, 80, SIZE), Limits(4, 64), drafts=drafts)
        sequences = [plain.sequence(prompt, params) for prompt in PROMPTS[:2]]
        answered(batch, sequences)
        assert [sequence.output() for sequence in sequences] == wanted[:2]
        assert (batch.speculation_counts.drafts > 0) == some


class AlwaysThree:
    def guess(self, wanted: Mapping[Sequence, int]) -> Mapping[Sequence, list[int]]:
        return {sequence: [3] * count for sequence, count in wanted.items()}

    def forget(self, sequence: Sequence) -> None: ...


def test_what_is_drawn_with_guesses_has_the_distribution_of_what_is_drawn_without(plain: LLM) -> None:
    """Two independent sets of seeds; of each answer the first three tokens of a small vocabulary, by chi-square."""
    biases = dict.fromkeys((3, 5, 9), 100.0)
    found: list[Counter[tuple[int, ...]]] = []
    for first, drafts in ((0, None), (10_000, Drafts(AlwaysThree(), 3))):
        batch = Batch(Runner(plain.model, 800, SIZE), Limits(200, 2048), drafts=drafts)
        params = [
            SamplingParams(seed=first + seed, temperature=2.0, max_tokens=4, logit_bias=biases, ignore_eos=True)
            for seed in range(1500)
        ]
        sequences = [plain.sequence([1, 2], one) for one in params]
        answered(batch, sequences)
        found.append(Counter(tuple(sequence.answer[1:]) for sequence in sequences))
        if drafts is not None:
            assert 0.2 < drafts.counts.accepted_tokens / drafts.counts.draft_tokens < 0.9
    keys = sorted(found[0].keys() | found[1].keys())
    common = torch.tensor([[counts[key] for key in keys] for counts in found], dtype=torch.float64)
    common = common[:, common.sum(0) >= 10]
    assert common.shape[1] >= 15
    statistic = ((common[0] - common[1]) ** 2 / common.sum(0)).sum()  # of two samples of one size
    degrees = torch.tensor(common.shape[1] - 1.0)
    assert torch.special.gammaincc(degrees / 2, statistic.float() / 2) > 1e-3


def test_a_wrong_guess_that_is_no_number_to_the_model_does_no_harm(folder: Path, plain: LLM) -> None:
    """As if a token that never comes overflowed: its key and value would reach every later token of the block."""
    llm = LLM(folder, device="cpu", enable_prefix_caching=False)
    params = params_of("greedy", 20)
    (wanted,) = plain.generate([PROMPTS[1]], params)
    bad = next(token for token in range(400) if token not in (*wanted.token_ids, *PROMPTS[1]))

    class Bad(AlwaysThree):
        def guess(self, asked: Mapping[Sequence, int]) -> Mapping[Sequence, list[int]]:
            return {one: [wanted.token_ids[len(one.answer)], bad, bad][:count] for one, count in asked.items()}

    runner = Runner(llm.model, 30, SIZE)
    feed = runner.feed

    def poisoned(parts: Any) -> Any:
        logits = feed(parts)
        for part, rows in zip(parts, logits, strict=True):
            for place, token in enumerate(part.draft):
                if token == bad:
                    at = part.end + place
                    with torch.inference_mode():
                        runner.cache.keys[0][part.blocks[at // SIZE], at % SIZE] = torch.nan
                        rows[place + 1 :] = torch.nan
        return logits

    runner.feed = poisoned  # type: ignore[method-assign]
    batch = Batch(runner, Limits(1, 64), drafts=Drafts(Bad(), 3))
    sequence = llm.sequence(PROMPTS[1], params)
    answered(batch, [sequence])
    assert sequence.output().token_ids == wanted.token_ids
    assert not any(slab.isnan().any() for slab in runner.cache.keys)
    assert batch.speculation_counts.accepted_tokens < batch.speculation_counts.draft_tokens


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "ngrams"}, "speculation='ngrams' must be one of none, prompt_lookup, draft"),
        ({"num_speculative_tokens": 0}, "num_speculative_tokens=0 must be a whole number from 1 to 31"),
        ({"num_speculative_tokens": 32}, "num_speculative_tokens=32"),
        ({"prompt_lookup_min": 0}, "prompt_lookup_min=0 must be a whole number from 1"),
        ({"prompt_lookup_min": 5}, "prompt_lookup_max=4 must be a whole number from prompt_lookup_min=5 to 32"),
        ({"prompt_lookup_max": True}, "prompt_lookup_max=True"),
        ({"disable_by_batch_size": 1}, "disable_by_batch_size=1 must be a whole number from 2, or left out"),
    ],
)
def test_wrong_numbers_are_refused_by_name_and_rule(options: dict[str, Any], message: str) -> None:
    with pytest.raises(GenerationError, match=message):
        Speculation(**options)

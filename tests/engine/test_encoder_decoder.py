"""T5 in the engine against transformers' own: greedy, beams, sampling, in mixed batches, on few blocks, left early."""

import asyncio
import copy
import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel

from hanbit import LLM, SamplingParams
from hanbit.common.errors import GenerationError, ModelError
from hanbit.engine.batch import Batch
from hanbit.engine.encoder_decoder import EncoderDecoderRunner
from hanbit.engine.parts import Limits
from hanbit.engine.sampling import choose
from hanbit.engine.sequence import Sequence
from hanbit.engine.service import Service
from tests.engine.folders import VOCABULARY, write_tokenizer
from tests.engine.test_beams import ENDS
from tests.engine.test_llm import prompts_of
from tests.models.shapes import shake
from tests.models.test_encoders import T5S

PROMPTS = prompts_of(7, 1, 40, 3, 120)
# the penalty: without it a random model says one token again and again
GREEDY = SamplingParams(temperature=0, max_tokens=30, ignore_eos=True, repetition_penalty=1.6)


def write_t5(folder: Path, name: str) -> Path:
    kind, config = T5S[name]
    config = copy.deepcopy(config)
    config.vocab_size = VOCABULARY
    torch.manual_seed(0)
    model = kind(config)
    shake(model)
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def t5s(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: write_t5(tmp_path_factory.mktemp("t5"), name) for name in T5S}


@pytest.fixture(scope="module")
def folder(t5s: dict[str, Path]) -> Path:
    return t5s["t5"]


@pytest.fixture(scope="module")
def llm(folder: Path) -> LLM:
    found = LLM(folder, device="cpu", block_size=4)
    found.defaults = replace(found.defaults, end_ids=frozenset(ENDS))
    return found


def theirs_of(folder: Path) -> PreTrainedModel:
    return AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32).eval()


def generated(model: PreTrainedModel, prompt: list[int], tokens: int, **options: Any) -> Any:
    """Without an end token unless one is given."""
    options = {"eos_token_id": None, "do_sample": False, **options}
    return model.generate(torch.tensor([prompt]), max_new_tokens=tokens, pad_token_id=0, **options)


@pytest.mark.parametrize("name", T5S)
def test_prompts_of_mixed_lengths_together_get_the_greedy_tokens_of_transformers(
    name: str, t5s: dict[str, Path]
) -> None:
    theirs = theirs_of(t5s[name])
    wanted = [tuple(generated(theirs, prompt, 30, repetition_penalty=1.6)[0, 1:].tolist()) for prompt in PROMPTS]
    assert len(set(wanted)) == len(wanted), "answers that do not depend on the prompt would prove nothing"
    assert max(len(set(answer)) for answer in wanted) > 3
    for options in ({}, {"max_sequences": 2, "max_num_batched_tokens": 50}, {"block_size": 3}):
        found = LLM(t5s[name], device="cpu", **options).generate(PROMPTS, GREEDY)
        assert [output.token_ids for output in found] == wanted
        assert [output.prompt_token_ids for output in found] == [tuple(prompt) for prompt in PROMPTS]


@pytest.mark.parametrize("name", ["t5", "mt5"])
@pytest.mark.parametrize("length_penalty", [1.0, -1.0])
def test_beams_and_their_scores_are_those_of_transformers(
    length_penalty: float, name: str, t5s: dict[str, Path]
) -> None:
    llm, theirs = LLM(t5s[name], device="cpu", block_size=4), theirs_of(t5s[name])
    llm.defaults = replace(llm.defaults, end_ids=frozenset(ENDS))
    words = [[5], [7, 9], *([token] for token in range(100, 140) if token not in ENDS)]
    params = SamplingParams(
        num_beams=4, n=3, max_tokens=12, length_penalty=length_penalty, bad_words=words, repetition_penalty=1.4,
        min_tokens=2,
    )  # fmt: skip
    for prompt, output in zip(PROMPTS, llm.generate(PROMPTS, params), strict=True):
        wanted = generated(
            theirs, prompt, 12, num_beams=4, num_return_sequences=3, length_penalty=length_penalty, eos_token_id=ENDS,
            bad_words_ids=words, repetition_penalty=1.4, min_new_tokens=2, return_dict_in_generate=True,
            output_scores=True,
        )  # fmt: skip
        answers = []
        for tokens in wanted.sequences[:, 1:].tolist():
            end = next((place + 1 for place, token in enumerate(tokens) if token in ENDS), len(tokens))
            answers.append(tuple(tokens[:end]))
        found = (output, *output.others)
        assert [one.token_ids for one in found] == answers
        assert [one.score for one in found] == pytest.approx(wanted.sequences_scores.tolist(), rel=1e-4, abs=1e-4)


def test_a_seed_draws_what_a_plain_loop_over_transformers_logits_draws(llm: LLM, folder: Path) -> None:
    theirs = theirs_of(folder)
    params = [SamplingParams(temperature=1.3, top_k=20, top_p=0.9, seed=seed, max_tokens=16, ignore_eos=True)
              for seed in range(len(PROMPTS))]  # fmt: skip
    for prompt, one, output in zip(PROMPTS, params, llm.generate(PROMPTS, params), strict=True):
        numbers, tokens = random.Random(one.seed), [0]
        for _ in range(16):
            with torch.no_grad():
                logits = theirs(input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([tokens])).logits
            tokens.append(choose(logits[0, -1], one, numbers.random(), one.top_p))
        assert output.token_ids == tuple(tokens[1:])


def mixed(llm: LLM) -> list[Sequence]:
    params = [
        SamplingParams(temperature=0, max_tokens=20),
        SamplingParams(num_beams=3, max_tokens=14),
        SamplingParams(seed=5, max_tokens=25, temperature=1.2),
        SamplingParams(temperature=0, max_tokens=9, repetition_penalty=1.5),
        SamplingParams(num_beams=2, n=2, max_tokens=10),
    ]
    return [llm.sequence(prompt, one) for prompt, one in zip(PROMPTS, params, strict=True)]


def batch_of(llm: LLM, num_blocks: int, sequences: int, most_prompts: int = 8) -> tuple[Batch, EncoderDecoderRunner]:
    runner = EncoderDecoderRunner(llm.model, num_blocks, 4, most_prompts, 100)
    return Batch(runner, Limits(sequences, step_tokens=16, patience=4)), runner


def play(batch: Batch, sequences: list[Sequence]) -> list[tuple[int, ...]]:
    for sequence in sequences:
        batch.add(sequence)
    while not batch.is_empty:
        batch.step()
    return [sequence.output().token_ids for sequence in sequences]


@pytest.mark.parametrize(("num_blocks", "sequences", "most_prompts"), [(200, 12, 12), (14, 12, 12), (16, 4, 1)])
def test_answers_together_equal_answers_alone_also_on_few_blocks_and_where_prompts_are_read_anew(
    num_blocks: int, sequences: int, most_prompts: int, llm: LLM
) -> None:
    alone = [play(batch_of(llm, 200, 8)[0], [sequence])[0] for sequence in mixed(llm)]
    batch, runner = batch_of(llm, num_blocks, sequences, most_prompts)
    assert play(batch, mixed(llm)) == alone
    assert batch.cache_counts.blocks_used == 0
    assert runner.num_prompts == 0
    assert (batch.cache_counts.preempted > 0) == (num_blocks == 14)


def test_leaving_frees_blocks_and_what_the_encoder_gave(llm: LLM) -> None:
    for steps in range(1, 12, 2):
        batch, runner = batch_of(llm, 200, 12)
        sequences = mixed(llm)
        for sequence in sequences:
            batch.add(sequence)
        for _ in range(steps):
            batch.step()
        assert 1 <= runner.num_prompts <= 5
        for sequence in sequences:
            batch.remove(sequence)
        assert (batch.cache_counts.blocks_used, runner.num_prompts, batch.is_empty) == (0, 0, True)


def test_prompts_that_arrive_together_are_encoded_a_few_a_step(llm: LLM) -> None:
    """Of 7, 1, 40, 3 and 120 tokens, with a budget of 16 a step, and of 4 while answers grow."""
    batch, runner = batch_of(llm, 200, 12)
    for prompt in PROMPTS:
        batch.add(llm.sequence(prompt, GREEDY))
    started = []
    for _ in range(4):
        batch.step()
        started.append(runner.num_prompts)
    assert started == [3, 4, 5, 5]


def test_a_stream_that_is_left_and_one_that_ends_leave_nothing(llm: LLM) -> None:
    stream = llm.stream(PROMPTS[2], GREEDY)
    next(stream)
    stream.close()
    assert llm.cache_counts.blocks_used == 0
    joined = "".join(piece.text for piece in llm.stream("The quick brown fox", GREEDY))
    assert joined == llm.generate(["The quick brown fox"], GREEDY)[0].text


def test_blocks_of_an_answer_to_another_prompt_are_never_taken_over(llm: LLM) -> None:
    one, again, other = (llm.sequence(prompt, GREEDY) for prompt in (PROMPTS[0], PROMPTS[0], PROMPTS[0][:-1]))
    assert one.prompt == other.prompt == (0,)
    assert one.root == again.root != other.root


def test_logprobs_and_usage_are_of_the_answer_to_the_prompt(llm: LLM, folder: Path) -> None:
    params = replace(GREEDY, max_tokens=5, logprobs=2)
    output = llm.generate([PROMPTS[0]], params)[0]
    with torch.no_grad():
        tokens = torch.tensor([[0, *output.token_ids[:-1]]])
        logits = theirs_of(folder)(input_ids=torch.tensor([PROMPTS[0]]), decoder_input_ids=tokens).logits[0]
    wanted = logits.log_softmax(-1)[range(5), list(output.token_ids)]
    torch.testing.assert_close(torch.tensor([one.logprob for one in output.logprobs]), wanted, rtol=0, atol=1e-4)
    pieces = list(llm.stream(PROMPTS[0], params))
    assert pieces[-1].usage is not None
    assert (pieces[-1].usage.prompt_tokens, pieces[-1].usage.completion_tokens) == (7, 5)


def test_a_prompt_may_fill_the_context_and_no_more(llm: LLM) -> None:
    assert llm.context == 512
    assert len(llm.generate(prompts_of(512), GREEDY)[0].token_ids) == 30
    with pytest.raises(GenerationError, match=r"has 513 tokens and the model's encoder reads 512\. Shorten it by at"):
        llm.generate(prompts_of(513), GREEDY)
    assert llm.sequence(PROMPTS[0], replace(GREEDY, max_tokens=None)).max_tokens == 511


def test_what_is_not_built_for_it_is_refused_by_name(llm: LLM, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(GenerationError, match="speculation is built for models of the next token"):
        LLM(folder, device="cpu", speculation="prompt_lookup")
    with pytest.raises(GenerationError, match="kv_cache_dtype=int8 is not built for a t5"):
        LLM(folder, device="cpu", kv_cache_dtype="int8")
    with pytest.raises(GenerationError, match="prompt_logprobs: a t5 reads its prompt"):
        llm.generate([PROMPTS[0]], replace(GREEDY, prompt_logprobs=0))
    with pytest.raises(GenerationError, match="a t5 has no sessions"), llm.session() as talk:
        list(talk.stream("a"))
    with pytest.raises(ModelError, match="adapters are built for models of the next token"):
        llm.add_adapter("mine", tmp_path)


def edited(folder: Path, made: Path, file: str, **values: Any) -> Path:
    shutil.copytree(folder, made)
    path = made / file
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return made


def test_an_answer_begins_behind_the_token_that_generation_config_names(folder: Path, tmp_path: Path) -> None:
    made = edited(folder, tmp_path / "model", "generation_config.json", decoder_start_token_id=7)
    model, params = theirs_of(made), replace(GREEDY, repetition_penalty=1.0, max_tokens=8)
    found = LLM(made, device="cpu").generate(PROMPTS[:2], params)
    for prompt, one in zip(PROMPTS, found, strict=False):
        assert model.generation_config.decoder_start_token_id == 7
        expected = model.generate(torch.tensor([prompt]), max_new_tokens=8, do_sample=False, eos_token_id=None)
        assert one.token_ids == tuple(expected[0, 1:].tolist())
        assert one.token_ids != LLM(folder, device="cpu").generate([prompt], params)[0].token_ids


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"decoder_start_token_id": 9999}, "decoder_start_token_id has token 9999, outside"),
        ({"dense_act_fn": "silu"}, "dense_act_fn='silu' is not built"),
    ],
)
def test_what_would_change_its_answers_is_refused(
    values: dict[str, Any], says: str, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=says):
        LLM(edited(folder, tmp_path / "model", "config.json", **values), device="cpu")


def test_a_service_counts_the_prompts_tokens_and_ends_clean(llm: LLM) -> None:
    async def ask(service: Service) -> list[str]:
        async def one(prompt: list[int]) -> str:
            return "".join([piece.text async for piece in service.stream(prompt, GREEDY)])

        return await asyncio.gather(*map(one, PROMPTS))

    service = Service(llm, max_sequences=3)
    assert asyncio.run(ask(service)) == [output.text for output in llm.generate(PROMPTS, GREEDY)]
    assert service.counts().prompt_tokens == sum(map(len, PROMPTS))
    assert service.cache_counts.blocks_used == 0
    service.close()


def test_bfloat16_answers_too(folder: Path) -> None:
    found = LLM(folder, dtype="bfloat16", device="cpu").generate(PROMPTS, replace(GREEDY, max_tokens=4))
    assert [len(output.token_ids) for output in found] == [4] * len(PROMPTS)

"""The engine's answers against transformers' `generate`, in batches and alone; and what it refuses."""

import contextlib
import gc
import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from safetensors.torch import load_file, save_file
from transformers.generation import logits_process

from hanbit.common.errors import GenerationError, ModelError
from hanbit.engine import runner
from hanbit.engine.batch import Batch
from hanbit.engine.llm import LLM
from hanbit.engine.parts import Limits
from hanbit.engine.runner import Runner, cache_shape_of
from hanbit.engine.sampling_params import SamplingParams
from hanbit.tokenizers import chat
from tests.engine.conftest import Folder
from tests.engine.folders import VOCABULARY, theirs_of
from tests.models.shapes import CONFIGS

GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
CONTEXT = 64


def prompts_of(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(4)
    return [torch.randint(VOCABULARY, (length,), generator=generator).tolist() for length in lengths]


def greedy_of_theirs(folder: Path, prompt: list[int], count: int) -> tuple[int, ...]:
    tokens = torch.tensor([prompt])
    model = theirs_of(folder)
    found = model.generate(tokens, attention_mask=torch.ones_like(tokens), do_sample=False, max_new_tokens=count)
    return tuple(found[0, len(prompt) :].tolist())


@pytest.mark.parametrize("name", CONFIGS)
def test_prompts_of_mixed_lengths_together_get_the_greedy_tokens_of_transformers(name: str, folder_of: Folder) -> None:
    folder = folder_of(name)
    prompts = prompts_of(20, 1, 9, 33)
    outputs = LLM(folder, device="cpu").generate(prompts, GREEDY)
    for prompt, output in zip(prompts, outputs, strict=True):
        assert output.token_ids == greedy_of_theirs(folder, prompt, 12)
        assert output.prompt_token_ids == tuple(prompt)


@pytest.mark.parametrize(
    "name", ["llama", "mistral window", "mixtral", "neox", "gptj", "opt", "bloom", "gemma2", "gemma3", "exaone4"]
)
def test_a_prompt_read_in_chunks_gives_the_same_tokens(name: str, folder_of: Folder) -> None:
    prompts = prompts_of(33, 12, 5)
    llm = LLM(folder_of(name), device="cpu", max_num_batched_tokens=5)
    for prompt, output in zip(prompts, llm.generate(prompts, GREEDY), strict=True):
        assert output.token_ids == greedy_of_theirs(folder_of(name), prompt, 12)


@pytest.mark.parametrize("max_sequences", [1, 2, 3, 16])
def test_answers_together_equal_answers_alone_while_sequences_leave_and_join(
    folder_of: Folder, max_sequences: int
) -> None:
    llm = LLM(folder_of("mistral window"), device="cpu", max_sequences=max_sequences)
    prompts = prompts_of(3, 17, 1, 8, 30, 2)
    greedy = [SamplingParams(temperature=0, max_tokens=count, ignore_eos=True) for count in (9, 2, 14, 1, 20, 6)]
    together = llm.generate(prompts, greedy)
    assert [len(output.token_ids) for output in together] == [9, 2, 14, 1, 20, 6]
    for prompt, params, output in zip(prompts, greedy, together, strict=True):
        assert output == llm.generate([prompt], params)[0]


def test_a_seed_gives_the_same_answer_whatever_else_is_in_the_batch(llm: LLM) -> None:
    prompt, *others = prompts_of(7, 3, 12, 20)
    seeded = SamplingParams(seed=11, max_tokens=20, temperature=0.9, top_p=0.9)
    alone = llm.generate([prompt], seeded)[0]
    noise = SamplingParams(max_tokens=15)
    assert llm.generate([others[0], prompt, *others[1:]], [noise, seeded, noise, noise])[1] == alone
    assert llm.generate([prompt], SamplingParams(seed=12, max_tokens=20, temperature=0.9, top_p=0.9))[0] != alone


def test_a_shrinking_nucleus_is_drawn_from_by_a_plain_loop_over_the_models_logits(folder: Path, llm: LLM) -> None:
    prompt, other = prompts_of(7, 12)
    params = SamplingParams(
        seed=5, max_tokens=16, top_p=0.95, top_p_decay=0.6, top_p_min=0.05, ignore_eos=True, temperature=1.5
    )
    params = replace(params, top_p_reset_ids=llm.generate([prompt], params)[0].token_ids[3:4])
    model, numbers, tokens, top_p = theirs_of(folder), random.Random(5), list(prompt), 0.95
    with torch.inference_mode():
        for _ in range(16):
            scores = model(torch.tensor([tokens])).logits[:, -1] / 1.5
            scores = logits_process.TopPLogitsWarper(top_p)(torch.empty(1, 0), scores)
            values, ids = scores[0].softmax(0).double().sort(descending=True, stable=True)
            place = int(torch.searchsorted(values.cumsum(0), numbers.random(), right=True))
            tokens.append(int(ids[place]))
            top_p = 0.95 if tokens[-1] in params.top_p_reset_ids else max(top_p * 0.6, 0.05)
    assert llm.generate([other, prompt], [GREEDY, params])[1].token_ids == tuple(tokens[len(prompt) :])


def test_without_a_seed_answers_differ(llm: LLM) -> None:
    (prompt,) = prompts_of(5)
    params = SamplingParams(max_tokens=30, temperature=2.0, ignore_eos=True)
    assert llm.generate([prompt], params) != llm.generate([prompt], params)


@pytest.mark.parametrize("prompt", ["The quick brown", "안녕"])
def test_streamed_pieces_joined_are_the_whole_answer(llm: LLM, prompt: str) -> None:
    params = SamplingParams(seed=3, max_tokens=40, temperature=1.5)
    pieces = list(llm.stream(prompt, params))
    whole = llm.generate([prompt], params)[0]
    assert "".join(piece.text for piece in pieces) == whole.text
    assert tuple(id for piece in pieces for id in piece.token_ids) == whole.token_ids
    assert [piece.finish_reason for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert pieces[-1].finish_reason == whole.finish_reason
    assert whole.text == llm.tokenizer.decode(whole.token_ids, skip_special_tokens=True)


def test_a_stop_text_ends_the_answer_before_it(llm: LLM) -> None:
    (prompt,) = prompts_of(5)
    free = llm.generate([prompt], SamplingParams(seed=1, max_tokens=40, ignore_eos=True))[0]
    stop = free.text[10:13]
    output = llm.generate([prompt], SamplingParams(seed=1, max_tokens=40, ignore_eos=True, stop=[stop]))[0]
    assert output.text == free.text[: free.text.index(stop)]
    assert output.finish_reason == "stop"
    assert output.token_ids == free.token_ids[: len(output.token_ids)]


def test_the_end_tokens_of_the_folder_end_an_answer(folder: Path, tmp_path: Path) -> None:
    (prompt,) = prompts_of(5)
    tokens = greedy_of_theirs(folder, prompt, 12)
    shutil.copytree(folder, tmp_path / "model")
    (tmp_path / "model/generation_config.json").write_text(f'{{"eos_token_id": [{tokens[4]}, {tokens[7]}]}}')
    output = LLM(tmp_path / "model").generate([prompt], SamplingParams(temperature=0, max_tokens=12))[0]
    first = min(tokens.index(tokens[4]), tokens.index(tokens[7]))
    assert output.token_ids == tokens[: first + 1]
    assert output.finish_reason == "stop"


def test_min_tokens_keep_the_end_away_and_no_longer(folder: Path, tmp_path: Path) -> None:
    (prompt,) = prompts_of(5)
    shutil.copytree(folder, tmp_path / "model")
    every = list(range(0, VOCABULARY, 2))  # any even token ends an answer
    (tmp_path / "model/generation_config.json").write_text(f'{{"eos_token_id": {every}}}')
    output = LLM(tmp_path / "model").generate([prompt], SamplingParams(temperature=0, min_tokens=6, max_tokens=40))[0]
    assert all(token % 2 for token in output.token_ids[:6])
    assert output.finish_reason == "stop"
    theirs = theirs_of(folder).generate(
        torch.tensor([prompt]), do_sample=False, min_new_tokens=6, max_new_tokens=40, eos_token_id=every, pad_token_id=0
    )
    assert output.token_ids == tuple(theirs[0, 5:].tolist())


def test_logprobs_come_with_every_token_and_say_what_transformers_says(llm: LLM, folder: Path) -> None:
    (prompt,) = prompts_of(5)
    params = SamplingParams(seed=1, temperature=0.7, max_tokens=6, ignore_eos=True, logprobs=2, presence_penalty=1.0)
    output = llm.generate([prompt], params)[0]
    tokens = torch.tensor([[*prompt, *output.token_ids]])
    with torch.no_grad():
        wanted = theirs_of(folder)(tokens).logits[0, 4:-1].log_softmax(-1)
    for place, (found, token) in enumerate(zip(output.logprobs, output.token_ids, strict=True)):
        assert found.token_id == token
        assert found.logprob == pytest.approx(float(wanted[place, token]), abs=1e-4)
        assert [id for id, _ in found.top] == wanted[place].topk(2).indices.tolist()
    assert output.logprobs == tuple(one for piece in llm.stream(prompt, params) for one in piece.logprobs)
    with pytest.raises(GenerationError, match="logit_bias has token 500"):
        llm.generate([prompt], SamplingParams(logit_bias={500: 1.0}))


@pytest.mark.parametrize("name", ["llama", "mistral window", "gpt2", "gemma2"])
def test_logprobs_of_a_prompt_are_those_of_transformers_however_it_is_read(name: str, folder_of: Folder) -> None:
    """In one step, in pieces, after its beginning is in the cache, beside others, on blocks that are taken away."""
    prompts = prompts_of(40, 33, 1, 7)
    model = theirs_of(folder_of(name))
    params = SamplingParams(temperature=0, max_tokens=6, prompt_logprobs=3, logprobs=0, ignore_eos=True)
    llms = [LLM(folder_of(name), device="cpu", max_num_batched_tokens=tokens) for tokens in (1024, 5)]
    outputs = [
        *llms[0].generate(prompts, params),
        *llms[1].generate(prompts, params),
        *llms[0].generate(prompts, params),
    ]
    batch = Batch(Runner(llms[0].model, 14, 4), Limits(4, step_tokens=16, patience=4))
    sequences = [llms[0].sequence(prompt, params) for prompt in prompts]
    for sequence in sequences:
        batch.add(sequence)
    while not batch.is_empty:
        batch.step()
    outputs += [sequence.output() for sequence in sequences]
    assert batch.cache_counts.preempted > 0
    for output in outputs:
        prompt = list(output.prompt_token_ids)
        with torch.inference_mode():
            wanted = model(torch.tensor([prompt])).logits[0].log_softmax(1)
        assert output.prompt_logprobs[0] is None
        assert len(output.prompt_logprobs) == len(prompt)
        for place, told in enumerate(output.prompt_logprobs[1:], 1):
            assert told is not None
            assert told.token_id == prompt[place]
            assert told.logprob == pytest.approx(float(wanted[place - 1, prompt[place]]), abs=1e-4)
            assert [value for _, value in told.top] == pytest.approx(
                wanted[place - 1].topk(3).values.tolist(), abs=1e-4
            )
    plain = llms[0].generate(prompts, replace(params, prompt_logprobs=None))
    assert [output.token_ids for output in outputs] == [output.token_ids for output in plain] * 4


def test_a_prompt_as_long_as_the_context_may_be_asked_for_its_logprobs_alone(llm: LLM) -> None:
    (prompt,) = prompts_of(CONTEXT)
    only = SamplingParams(max_tokens=0, prompt_logprobs=0)
    (output,) = llm.generate([prompt], only)
    assert (len(output.prompt_logprobs), output.token_ids, output.text) == (CONTEXT, (), "")
    (piece,) = llm.stream(prompt[:5], only)
    assert (len(piece.prompt_logprobs), piece.finish_reason) == (5, "length")
    with pytest.raises(GenerationError, match="Shorten it by at least 1"):
        llm.generate([[*prompt, 1]], only)


@pytest.mark.parametrize("way", ["close", "drop"])
def test_leaving_a_stream_leaves_nothing_behind(llm: LLM, way: str) -> None:
    stream = llm.stream("The", GREEDY)
    next(stream)
    next(stream)
    assert llm.cache_counts.blocks_used == 1
    if way == "close":
        stream.close()  # type: ignore[attr-defined]
    else:
        del stream
        gc.collect()
    assert llm.cache_counts.blocks_used == 0


def test_threads_that_ask_one_model_get_what_each_gets_alone(llm: LLM) -> None:
    prompts = prompts_of(20, 1, 9, 33, 2, 5)
    with ThreadPoolExecutor(6) as threads:
        found = list(threads.map(lambda prompt: llm.generate([prompt], GREEDY)[0], prompts))
    assert found == llm.generate(prompts, GREEDY)
    assert llm.cache_counts.blocks_used == 0


def test_two_streams_at_once_do_not_disturb_each_other(llm: LLM) -> None:
    one, other = llm.stream("The quick", GREEDY), llm.stream("안녕하세요", GREEDY)
    mixed = [(next(one), next(other)) for _ in range(12)]
    assert [piece for piece, _ in mixed] == list(llm.stream("The quick", GREEDY))
    assert [piece for _, piece in mixed] == list(llm.stream("안녕하세요", GREEDY))


def test_an_empty_prompt_starts_where_documents_do(llm: LLM) -> None:
    output = llm.generate(["", []], GREEDY)
    assert output[0] == output[1]
    assert output[0].prompt_token_ids == (llm.tokenizer.begin_id or llm.tokenizer.end_id,)


def test_a_prompt_longer_than_the_context_is_refused_with_numbers_before_any_work(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner.Runner, "feed", None)  # work would raise another error
    with pytest.raises(GenerationError, match=r"prompt 1 has 66 tokens .* holds 64, .* at least 3"):
        llm.generate(prompts_of(5, CONTEXT + 2), GREEDY)
    with pytest.raises(GenerationError, match="the prompt has 64 tokens"):
        llm.stream(*prompts_of(CONTEXT), GREEDY)


def test_max_tokens_beyond_the_context_become_what_fits_and_that_is_said(
    llm: LLM, caplog: pytest.LogCaptureFixture
) -> None:
    output = llm.generate(prompts_of(60), SamplingParams(temperature=0, max_tokens=9, ignore_eos=True))[0]
    assert "max_tokens=9 becomes 4" in caplog.text
    assert (len(output.token_ids), output.finish_reason) == (4, "length")
    whole = llm.generate(prompts_of(50), SamplingParams(max_tokens=None, ignore_eos=True))[0]
    assert len(whole.token_ids) == CONTEXT - 50


@pytest.mark.parametrize("token", [VOCABULARY, -1, 1.5, True])
def test_tokens_outside_the_vocabulary_are_refused(llm: LLM, token: int) -> None:
    with pytest.raises(GenerationError, match=rf"token {token} at place 1, outside .* vocabulary of {VOCABULARY}"):
        llm.generate([[5, token]])


def test_tokens_may_be_any_kind_of_integer(llm: LLM) -> None:
    for prompt in prompts_of(1, 5):
        assert llm.generate([np.array(prompt)], GREEDY) == llm.generate([prompt], GREEDY)  # type: ignore[list-item]


def test_a_bare_prompt_and_a_wrong_number_of_parameters_are_refused(llm: LLM) -> None:
    with pytest.raises(GenerationError, match="list of prompts"):
        llm.generate("The quick")
    with pytest.raises(GenerationError, match="1 sampling parameters for 2 prompts"):
        llm.generate(["a", "b"], [GREEDY])


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_no_numbers_are_refused_by_name(folder: Path, tmp_path: Path, value: float) -> None:
    shutil.copytree(folder, tmp_path / "model")
    weights = load_file(tmp_path / "model/model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 2] = value
    save_file(weights, tmp_path / "model/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"model.layers.1.mlp.up_proj.weight has numbers that are NaN or"):
        LLM(tmp_path / "model")


def test_weights_that_a_narrow_dtype_does_not_hold_are_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "model")
    weights = load_file(tmp_path / "model/model.safetensors")
    weights["model.norm.weight"][0] = 1e6
    save_file(weights, tmp_path / "model/model.safetensors", metadata={"format": "pt"})
    LLM(tmp_path / "model", device="cpu")
    with pytest.raises(ModelError, match=r"model.norm.weight has numbers that are NaN or that torch.float16 does not"):
        LLM(tmp_path / "model", device="cpu", dtype="float16")


def test_logits_that_are_no_numbers_are_noticed(folder: Path) -> None:
    """Finite weights may still give no numbers."""
    llm = LLM(folder, device="cpu")
    llm.model.norm.weight.fill_(torch.nan)  # type: ignore[operator, union-attr]
    with pytest.raises(GenerationError, match="not numbers"):
        llm.generate(["The"], GREEDY)


def test_a_tokenizer_of_a_larger_vocabulary_is_refused_before_the_weights(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "model")
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    size = tokenizer.get_vocab_size()
    assert size < VOCABULARY, "rows of padding are nobody's"
    tokenizer.add_tokens([f"<new {index}>" for index in range(size, VOCABULARY + 1)])
    tokenizer.save(str(tmp_path / "model/tokenizer.json"))
    (tmp_path / "model/model.safetensors").unlink()
    message = rf"tokenizer has ids up to {VOCABULARY} .*new {VOCABULARY}.*, config.json says vocab_size={VOCABULARY}"
    with pytest.raises(ModelError, match=message):
        LLM(tmp_path / "model")


def test_a_chat_is_the_template_rendered_and_answered(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "model")
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
    (tmp_path / "model/chat_template.jinja").write_text(template)
    llm = LLM(tmp_path / "model")
    messages = [{"role": "user", "content": "안녕"}]
    assert chat.render(llm.tokenizer, messages) == "<user>안녕<assistant>"
    assert llm.chat(messages, GREEDY) == llm.generate(["<user>안녕<assistant>"], GREEDY)[0]


def test_the_makers_sampling_is_the_default(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "model")
    (tmp_path / "model/generation_config.json").write_text('{"do_sample": true, "temperature": 0.6, "top_k": 1}')
    llm = LLM(tmp_path / "model")
    assert llm.defaults.sampling == {"temperature": 0.6, "top_k": 1}
    greedy = SamplingParams(temperature=0)
    assert llm.generate(["The"])[0] == llm.generate(["The"], greedy)[0]


def test_the_makers_repetition_penalty_counts_as_in_transformers(folder: Path, tmp_path: Path) -> None:
    (prompt,) = prompts_of(5)
    shutil.copytree(folder, tmp_path / "model")
    (tmp_path / "model/generation_config.json").write_text('{"do_sample": true, "repetition_penalty": 1.5}')
    llm = LLM(tmp_path / "model", device="cpu")
    assert llm.defaults.sampling == {"repetition_penalty": 1.5}
    params = SamplingParams(**llm.defaults.sampling, temperature=0, max_tokens=20, ignore_eos=True)
    tokens = torch.tensor([prompt])
    theirs = theirs_of(folder).generate(
        tokens, attention_mask=torch.ones_like(tokens), do_sample=False, max_new_tokens=20, repetition_penalty=1.5
    )
    assert llm.generate([prompt], params)[0].token_ids == tuple(theirs[0, 5:].tolist())
    assert theirs[0, 5:].tolist() != list(greedy_of_theirs(folder, prompt, 20))


def test_what_the_makers_ask_for_and_is_not_built_is_said_once(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(folder, tmp_path / "model")
    text = '{"no_repeat_ngram_size": 3, "num_beams": 1, "typical_p": 1.0, "suppress_tokens": [], "max_length": 99}'
    (tmp_path / "model/generation_config.json").write_text(text)
    llm = LLM(tmp_path / "model", device="cpu")
    llm.generate(["The", "quick"], GREEDY)
    found = [record.getMessage() for record in caplog.records if "not used" in record.getMessage()]
    assert found == [f"{tmp_path / 'model'} asks for what is not built and not used: {{'no_repeat_ngram_size': 3}}"]


def test_a_run_folder_stands_for_its_model_and_another_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not a model folder"):
        LLM(tmp_path)
    shutil.copytree(folder, tmp_path / "model")
    assert LLM(tmp_path).generate(["The"], GREEDY) == LLM(folder).generate(["The"], GREEDY)


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": "int8"},
        {"device": "abacus"},
        {"max_sequences": 0},
        {"block_size": 0},
        {"num_blocks": -1},
        {"max_num_batched_tokens": 0},
        {"kv_cache_gb": 0.0},
        {"kv_cache_gb": float("nan")},
        {"kv_cache_gb": 1.0, "num_blocks": 3},
    ],
)
def test_unknown_ways_to_run_are_refused(folder: Path, options: dict[str, Any]) -> None:
    with pytest.raises(GenerationError, match=next(iter(options))):
        LLM(folder, **options)


def test_a_cache_that_the_machine_refuses_is_said_with_its_size(folder: Path) -> None:
    with pytest.raises(GenerationError, match=r"cache of 10000000000000 blocks of 16 tokens takes .*PB.* Lower"):
        LLM(folder, num_blocks=10**13).generate(["The"])


def test_what_is_larger_than_the_cache_is_refused_by_name_and_what_fits_is_answered(folder: Path) -> None:
    llm = LLM(folder, num_blocks=3, block_size=8)
    with pytest.raises(GenerationError, match=r"prompt 1 and its answer take 25 tokens .* holds 24\. .*num_blocks"):
        llm.generate(prompts_of(4, 14), GREEDY)
    with pytest.raises(GenerationError, match="the prompt and its answer take 30"):
        llm.generate(prompts_of(30), SamplingParams(max_tokens=None))
    output = llm.generate(prompts_of(20), SamplingParams(max_tokens=None, ignore_eos=True))[0]
    assert len(output.token_ids) == 5  # no max_tokens: what the cache leaves


def test_the_cache_is_as_large_as_said_and_else_as_the_context_asks_for(folder: Path) -> None:
    assert LLM(folder, max_sequences=3).batch().cache_counts.blocks == 3 * CONTEXT // 16
    llm = LLM(folder, kv_cache_gb=1e-4)
    token_bytes = cache_shape_of(llm.model).token_bytes
    assert llm.batch().cache_counts.blocks == int(1e5 / (16 * token_bytes))


def test_bfloat16_answers_too(folder: Path) -> None:
    output = LLM(folder, dtype="bfloat16", device="cpu").generate(prompts_of(4, 9), GREEDY)
    assert [len(one.token_ids) for one in output] == [12, 12]


EXTREMES: dict[str, tuple[Any, ...]] = {
    "temperature": (0.0, 5e-324, 1e-46, 1e-38, 1.0, 1e38, 1e300),
    "min_p": (1e-300, 0.5, 1.0),
    "top_p": (1e-320, 1e-10, 0.5),
    "top_k": (1, 5, 10**9, 2**70),
    "top_p_decay": (1e-320, 0.5),
    "repetition_penalty": (1e-3, 1e3),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
    "logit_bias": ({5: 100.0, 6: -100.0}, dict.fromkeys(range(VOCABULARY), -100.0)),
    "bad_words": ([[id] for id in range(VOCABULARY)], ["a", [5]]),
    "min_tokens": (3, 2**70),
    "seed": (1, 2**70),
    "logprobs": (0, 20),
    "num_beams": (2, 3),
    "max_tokens": (1, 12),
}


@pytest.mark.parametrize("speculation", ["none", "prompt_lookup"])
def test_whatever_is_asked_is_answered_or_refused_and_harms_nobody(folder_of: Folder, speculation: str) -> None:
    """Beside each of them an ordinary answer goes on as if it were alone."""
    draw = random.Random(11)
    llm = LLM(folder_of("llama"), device="cpu", block_size=4, speculation=speculation)
    prompt, ordinary = prompts_of(9)[0], SamplingParams(seed=3, max_tokens=12, ignore_eos=True)
    expected = llm.generate([prompt], ordinary)[0]
    batch = llm.batch()
    for _ in range(50):
        often = {"temperature": 0.8, "min_p": 0.5}
        asked = {name: draw.choice(all) for name, all in EXTREMES.items() if draw.random() < often.get(name, 0.25)}
        beside = llm.sequence(prompt, ordinary)
        batch.add(beside)
        with contextlib.suppress(GenerationError):
            batch.add(llm.sequence(draw.choice([[5, 6, 7, 5, 6], [9], [5] * 30]), SamplingParams(**asked)))
        while not batch.is_empty:
            assert not any("the engine failed" in str(event) for _, event in batch.step()), asked
        assert beside.output() == expected, asked
        assert batch.cache_counts.blocks_used == 0, asked


def test_a_shorter_context_may_be_asked_for(folder_of: Folder) -> None:
    folder, (prompt,) = folder_of("llama"), prompts_of(20)
    llm = LLM(folder, device="cpu", max_model_len=24)
    (output,) = llm.generate([prompt], SamplingParams(temperature=0, max_tokens=12, ignore_eos=True))
    assert output.token_ids == greedy_of_theirs(folder, prompt, 4)
    assert output.finish_reason == "length"
    with pytest.raises(GenerationError, match="has 24 tokens and the model's context holds 24"):
        llm.generate(prompts_of(24))
    assert llm.cache_tokens < LLM(folder, device="cpu").cache_tokens
    for wrong, said in ((65, "beyond the context of"), (0, "must be at least 1")):
        with pytest.raises(GenerationError, match=f"max_model_len={wrong} .*{said}|max_model_len={wrong} is {said}"):
            LLM(folder, device="cpu", max_model_len=wrong)

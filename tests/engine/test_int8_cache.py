"""Keys and values kept as int8: near to those of float32, the same however they came and whatever is beside them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hanbit.checkpoint.model_folder import load_model
from hanbit.common.errors import GenerationError
from hanbit.engine.fuse import fuse
from hanbit.engine.kv_cache import CacheShape, KVCache
from hanbit.engine.llm import LLM
from hanbit.engine.runner import cache_shape_of
from hanbit.engine.sampling_params import SamplingParams
from hanbit.kernels.library import native, why_not
from hanbit.models.layers.decoder import Decoder
from tests.engine import feeding
from tests.engine.feeding import Rows, drawn, error_of
from tests.engine.folders import VOCABULARY, write_folder
from tests.engine.test_adapters import peft_of, write_adapter

needs_kernels = pytest.mark.skipif(native() is None, reason=f"native kernels: {why_not()}")
GREEDY = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("int8")
    write_folder(path, "llama")
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> Decoder:
    return fuse(load_model(folder))


def logits_of(rows: Rows, is_native: bool = True) -> torch.Tensor:
    return feeding.logits_of(rows, VOCABULARY, is_native)


def codes_of(slab: torch.Tensor) -> torch.Tensor:
    return slab[..., :-4].view(torch.int8)


@needs_kernels
def test_both_ways_write_and_read_the_same_numbers(model: Decoder) -> None:
    natives, torchs = Rows(model, 1, 32, "int8"), Rows(model, 1, 32, "int8")
    found, wanted, exact = logits_of(natives), logits_of(torchs, is_native=False), logits_of(Rows(model, 1, 32))
    assert error_of(found, wanted) < 0.3 * error_of(wanted, exact), "a tie may go either way"
    first, other = (rows.runner.cache.keys[0] for rows in (natives, torchs))  # of the first layer
    steps = (codes_of(first).int() - codes_of(other).int()).abs()
    assert steps.max() <= 1
    assert (steps == 0).float().mean() > 0.99
    scales = [slab[..., -4:].contiguous().view(torch.float32) for slab in (first, other)]
    torch.testing.assert_close(*scales, rtol=1e-5, atol=0)


@pytest.mark.parametrize("is_native", [pytest.param(True, marks=needs_kernels), False])
def test_logits_are_near_to_those_of_a_cache_that_rounds_nothing(model: Decoder, is_native: bool) -> None:
    wanted, found = logits_of(Rows(model, 1, 32), is_native), logits_of(Rows(model, 1, 32, "int8"), is_native)
    assert 0 < error_of(found, wanted) < 0.03


@pytest.mark.parametrize("is_native", [pytest.param(True, marks=needs_kernels), False])
def test_a_prompt_may_be_cut_anywhere(model: Decoder, is_native: bool) -> None:
    tokens, rows = drawn(30, VOCABULARY), Rows(model, 4, 32, "int8")
    if not is_native:
        rows.runner.step = None
    wanted = rows.prefill(0, tokens, 0, 30)
    assert wanted is not None
    for row, cuts in enumerate([(1, 2, 20), (7, 29), tuple(range(1, 30))], start=1):
        for start, end in zip((0, *cuts), (*cuts, 30), strict=True):
            found = rows.feed([rows.part(row, tokens[:end], start, end)])
        assert found[0] is not None
        if is_native:
            assert torch.equal(found[0], wanted)
        assert error_of(found[0], wanted) < 0.003  # torch's products of other numbers of rows may turn a tie


def test_answers_together_are_those_alone(folder: Path) -> None:
    prompts = [drawn(length, VOCABULARY, seed=length) for length in (3, 17, 40)]
    alone = [LLM(folder, kv_cache_dtype="int8").generate([prompt], GREEDY)[0] for prompt in prompts]
    together = LLM(folder, kv_cache_dtype="int8").generate(prompts, GREEDY)
    assert [one.token_ids for one in together] == [one.token_ids for one in alone]


def test_guesses_change_nothing(folder: Path) -> None:
    prompt = drawn(6, VOCABULARY) * 4
    plain = LLM(folder, kv_cache_dtype="int8").generate([prompt], GREEDY)[0]
    guessed = LLM(folder, kv_cache_dtype="int8", speculation="prompt_lookup").generate([prompt], GREEDY)[0]
    assert guessed.token_ids == plain.token_ids


def plain_beams(llm: LLM, prompt: list[int], width: int, length: int) -> list[tuple[list[int], float]]:
    """Beam search as a loop over single requests, each of which reads its text anew; best first."""
    beams: list[tuple[list[int], float]] = [([], 0.0)]
    for _ in range(length):
        grown = []
        for answer, score in beams:
            one = llm.generate([[*prompt, *answer]], SamplingParams(temperature=0, max_tokens=1, logprobs=width))[0]
            grown += [([*answer, token], score + logprob) for token, logprob in one.logprobs[0].top[:width]]
        beams = sorted(grown, key=lambda beam: -beam[1])[:width]
    return beams


@pytest.mark.parametrize("num_blocks", [200, 12])
def test_beams_are_those_of_a_plain_loop(folder: Path, num_blocks: int) -> None:
    """Blocks of 4 tokens: most forks copy one that is not full. 12 of them are too few for all beams at once."""
    plain = LLM(folder, kv_cache_dtype="int8", enable_prefix_caching=False)
    plain.defaults = replace(plain.defaults, end_ids=frozenset())
    llm = LLM(folder, kv_cache_dtype="int8", block_size=4, num_blocks=num_blocks, max_sequences=12)
    params = SamplingParams(num_beams=3, n=3, max_tokens=8, ignore_eos=True)
    prompts = [drawn(length, VOCABULARY, seed=length) for length in (3, 6, 5, 2)]
    for prompt, output in zip(prompts, llm.generate(prompts, params), strict=True):
        wanted = plain_beams(plain, prompt, 3, 8)
        found = [output, *output.others]
        assert [list(one.token_ids) for one in found] == [answer for answer, _ in wanted]
        scores = [score / 8 for _, score in wanted]  # length_penalty is 1
        assert [one.score for one in found] == pytest.approx(scores, abs=2e-3)  # a tie of rounding may turn
    assert (llm.cache_counts.preempted > 0) == (num_blocks == 12)
    assert llm.cache_counts.blocks_used == 0


@pytest.fixture(scope="module")
def adapter(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("adapter")
    write_adapter(folder, path, 1, ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"])
    return path


@pytest.fixture(scope="module")
def adapted(folder: Path, adapter: Path) -> LLM:
    llm = LLM(folder, device="cpu", kv_cache_dtype="int8", block_size=4)
    llm.add_adapter("polite", adapter)
    return llm


def test_logits_with_an_adapter_are_near_to_those_of_peft(folder: Path, adapter: Path, adapted: LLM) -> None:
    tokens = drawn(26, VOCABULARY)
    with torch.no_grad():
        wanted = peft_of(folder, adapter)(torch.tensor([tokens])).logits[0, 19:]
    one = adapted.sequence(tokens, adapter="polite").adapter
    rows = Rows(adapted.model, 1, 32, "int8")
    found = [rows.prefill(0, tokens[:20], 0, 20, one)]
    found += [rows.decode([tokens[place]], [place], [one])[0] for place in range(20, 26)]
    error = error_of(torch.stack([logits for logits in found if logits is not None]), wanted)
    assert 0.0005 < error < 0.03, "it rounds, and only that"


def test_answers_with_an_adapter_and_without_together_are_those_alone(folder: Path, adapted: LLM) -> None:
    """The cache keeps keys of both kinds; what begins alike is not shared between them."""
    prompt = drawn(17, VOCABULARY)
    wanted = {name: adapted.generate([prompt], GREEDY, adapter=name)[0].token_ids for name in (None, "polite")}
    assert wanted[None] == LLM(folder, kv_cache_dtype="int8").generate([prompt], GREEDY)[0].token_ids
    assert wanted[None] != wanted["polite"]
    batch = adapted.batch(4)
    sequences = [adapted.sequence(prompt, GREEDY, adapter=name) for name in ("polite", None, "polite", None)]
    for sequence in sequences:
        batch.add(sequence)
    while not batch.is_empty:
        batch.step()
    for sequence, name in zip(sequences, ("polite", None, "polite", None), strict=True):
        assert tuple(sequence.answer) == wanted[name]
    assert batch.cache_counts.blocks_used == 0


def test_a_token_takes_a_byte_a_number_and_four_a_head(model: Decoder) -> None:
    plain, small = cache_shape_of(model), cache_shape_of(model, "int8")
    heads = 2 * plain.layers * plain.key_value_heads
    assert plain.token_bytes == heads * plain.head_dim * 4
    assert small.token_bytes == heads * (plain.head_dim + 4)
    cache = KVCache(small, 3, 16)
    assert sum(slab.nbytes for slab in (*cache.keys, *cache.values)) == 3 * 16 * small.token_bytes


def test_heads_of_any_width_are_read_from_any_place() -> None:
    cache = KVCache(CacheShape(1, 1, 6, torch.float32, torch.device("cpu"), is_int8=True), 4, 16)
    heads = torch.randn(1, 1, 6, generator=torch.Generator().manual_seed(0))
    cache.write(0, torch.tensor([17]), heads, heads)
    keys, _ = cache.read(0, torch.tensor([[1]]), slice(1, 2))
    torch.testing.assert_close(keys[0], heads, rtol=0, atol=float(heads.abs().max()) / 127)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_written_is_read(dtype: torch.dtype) -> None:
    cache = KVCache(CacheShape(1, 2, 8, dtype, torch.device("cpu"), is_int8=True), 4, 16)
    heads = torch.randn(3, 2, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    cache.write(0, torch.tensor([33, 34, 40]), heads, -heads)
    keys, values = cache.read(0, torch.tensor([[2]]), slice(1, 9))
    assert keys.dtype == dtype
    found = keys[0, [0, 1, 7]]
    largest = heads.float().abs().amax(-1, keepdim=True)
    assert ((found.float() - heads.float()).abs() <= largest * (0.502 / 127 + 0.004)).all()
    torch.testing.assert_close(values[0, [0, 1, 7]], -found)
    assert not keys[0, 2:7].any()


def test_an_answer_whose_logits_are_no_numbers_leaves_none_behind(folder: Path) -> None:
    llm = LLM(folder, kv_cache_dtype="int8", num_blocks=4)
    output = llm.generate([drawn(5, VOCABULARY)], GREEDY)[0]
    weight = llm.model.norm.weight
    kept = weight.clone()
    weight.fill_(float("nan"))
    with pytest.raises(GenerationError, match="not numbers"):
        llm.generate([drawn(20, VOCABULARY, seed=9)], GREEDY)
    weight.copy_(kept)
    assert llm.generate([drawn(5, VOCABULARY)], GREEDY)[0].token_ids == output.token_ids


def test_another_dtype_is_refused(folder: Path) -> None:
    with pytest.raises(GenerationError, match="kv_cache_dtype='fp8' must be auto or int8"):
        LLM(folder, kv_cache_dtype="fp8")

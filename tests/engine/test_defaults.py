"""What a folder's generation_config.json asks for is what `generate` does by default, as transformers' does."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from hanbit.common.errors import GenerationError, ModelError
from hanbit.engine.defaults import merged, read_defaults
from hanbit.engine.llm import LLM
from hanbit.engine.sampling_params import SamplingParams
from tests.engine.folders import VOCABULARY, theirs_of
from tests.engine.test_llm import prompts_of

ENDS = [0, *range(3, VOCABULARY, 15)]  # the tokenizer has 0; so many that random models come to one
PROMPTS = prompts_of(7, 1, 20)
BEAMS = {"num_beams": 4, "length_penalty": 0.5, "early_stopping": True}
WORDS = [[5], [7, 9], [ENDS[0]], *([token] for token in range(100, 140))]


def write(path: Path, folder: Path, **values: Any) -> Path:
    shutil.copytree(folder, path)
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": ENDS, "pad_token_id": 0, **values}))
    return path


def theirs(folder: Path, prompt: list[int], max_new_tokens: int = 256) -> list[tuple[int, ...]]:
    """Answers by the folder's own settings, without what fills them up."""
    model = theirs_of(folder)
    max_new_tokens = min(max_new_tokens, model.config.max_position_embeddings - len(prompt))
    tokens = torch.tensor([prompt])
    found = model.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=max_new_tokens)
    answers = []
    for answer in found[:, len(prompt) :].tolist():
        end = next((place + 1 for place, token in enumerate(answer) if token in ENDS), len(answer))
        answers.append(tuple(answer[:end]))
    return answers


@pytest.mark.parametrize(
    "values",
    [
        BEAMS,
        {**BEAMS, "num_return_sequences": 3},
        {"num_beams": 3, "bad_words_ids": WORDS, "repetition_penalty": 1.4},
        {"num_beams": 2, "early_stopping": "never", "length_penalty": None, "do_sample": False},
    ],
)
def test_search_of_the_makers_gives_the_answers_of_transformers(
    values: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    made = write(tmp_path / "model", folder, **values)
    llm = LLM(made, device="cpu")
    for prompt, output in zip(PROMPTS, llm.generate(PROMPTS), strict=True):
        assert [one.token_ids for one in (output, *output.others)] == theirs(made, prompt)


def test_bad_words_and_penalty_of_greedy_makers_count_too(folder: Path, tmp_path: Path) -> None:
    made = write(tmp_path / "model", folder, bad_words_ids=WORDS, repetition_penalty=1.3)
    plain = write(tmp_path / "plain", folder)
    llm = LLM(made, device="cpu")
    params = SamplingParams(**llm.defaults.sampling, temperature=0, max_tokens=30)
    wanted = [theirs(made, prompt, 30)[0] for prompt in PROMPTS]
    assert [output.token_ids for output in llm.generate(PROMPTS, params)] == wanted
    assert wanted != [theirs(plain, prompt, 30)[0] for prompt in PROMPTS]


def test_a_stream_has_the_same_answer_as_one_piece_and_only_one_of_several(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = write(tmp_path / "model", folder, **BEAMS, num_return_sequences=3)
    llm = LLM(made, device="cpu")
    assert "searched with num_beams=4: they come whole, streams too" in caplog.text
    (piece,) = llm.stream(PROMPTS[0])
    assert piece.token_ids == llm.generate(PROMPTS[:1])[0].token_ids
    assert len(piece.token_ids) > 1
    assert not piece.others


def test_a_talk_goes_on_in_one_way(folder: Path, tmp_path: Path) -> None:
    llm = LLM(write(tmp_path / "model", folder, **BEAMS, bad_words_ids=WORDS), device="cpu")
    with llm.session() as talk:
        assert all(len(piece.token_ids) == 1 for piece in talk.stream(PROMPTS[0]))  # a search's answer comes whole
        with pytest.raises(GenerationError, match="num_beams=2: a session goes on in one way"):
            talk.generate(PROMPTS[1], SamplingParams(num_beams=2))


def test_beams_that_are_drawn_are_not_built_and_said_so(folder: Path, tmp_path: Path) -> None:
    made = write(tmp_path / "model", folder, **BEAMS, do_sample=True, temperature=0.5, num_return_sequences=2)
    found = read_defaults(made, None)
    assert found.sampling == {"temperature": 0.5}
    assert found.not_used == {"num_beams": 4}
    assert found.num_answers == 2
    assert len(LLM(made, device="cpu").generate(PROMPTS[:1])[0].others) == 1


def test_answers_of_makers_who_neither_draw_nor_search_are_one(folder: Path, tmp_path: Path) -> None:
    found = read_defaults(write(tmp_path / "model", folder, num_return_sequences=2), None)
    assert (found.num_answers, found.not_used) == (1, {"num_return_sequences": 2})


def test_what_transformers_writes_of_its_own_asks_for_nothing(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "model")
    GenerationConfig().save_pretrained(tmp_path / "model")
    found = read_defaults(tmp_path / "model", None)
    assert (found.sampling, found.not_used, found.num_answers) == ({}, {}, 1)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"num_beams": "4"}, r"num_beams='4' must be a whole number from 1 to 32"),
        ({"num_beams": 2, "num_return_sequences": 3}, r"num_return_sequences=3 must be at most num_beams=2"),
        ({"bad_words_ids": [5, 6]}, r"bad_words_ids=5 must be a list"),
        ({"eos_token_id": VOCABULARY}, rf"eos_token_id has token {VOCABULARY}, outside the model's vocabulary"),
        ({"eos_token_id": [2, -1]}, "eos_token_id has token -1, outside"),
        ({"eos_token_id": "2"}, "eos_token_id='2' must be a token id"),
        ({"decoder_start_token_id": 9999}, "decoder_start_token_id has token 9999, outside"),
        ({"bad_words_ids": ["fox"]}, r"bad_words_ids has 'fox': lists of token ids are meant"),
        (
            {"bad_words_ids": [[1, VOCABULARY]]},
            rf"bad_words_ids has token {VOCABULARY}, outside the model's vocabulary",
        ),
    ],
)
def test_settings_that_mean_nothing_are_refused_with_file_and_key(
    values: dict[str, Any], says: str, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=rf"generation_config\.json: {says}"):
        LLM(write(tmp_path / "model", folder, **values), device="cpu")


@pytest.mark.parametrize(
    ("given", "is_searched"),
    [
        ({}, True),
        ({"n": 4, "max_tokens": 3, "length_penalty": 2.0, "seed": None}, True),
        ({"n": 5}, False),
        ({"temperature": 0}, False),
        ({"seed": 3}, False),
        ({"best_of": 2}, False),
        ({"prompt_logprobs": 0}, False),
    ],
)
def test_a_request_that_wants_it_otherwise_is_not_searched(given: dict[str, Any], is_searched: bool) -> None:
    makers = {"bad_words": [[5]], **BEAMS}
    found = merged(makers, given)
    assert found == {**(makers if is_searched else {"bad_words": [[5]]}), **given}
    assert merged(makers, {"num_beams": 2, **given}) == {**makers, "num_beams": 2, **given}
    assert "num_beams" not in merged(makers, given, in_one_way=True)


def test_a_search_wider_than_the_engine_is_refused_at_once(folder: Path, tmp_path: Path) -> None:
    llm = LLM(write(tmp_path / "model", folder, num_beams=4), device="cpu", max_sequences=3)
    with pytest.raises(ModelError, match="num_beams=4, and 3 are followed at the same time"):
        llm.batch()

"""What must not come does not, as with transformers, alone and together with what else is asked for."""

import random
from pathlib import Path

import pytest
import torch
from transformers.generation import logits_process

from hanbit.common.errors import GenerationError
from hanbit.engine.bad_words import BadWords, token_ids_of
from hanbit.engine.llm import LLM
from hanbit.engine.sampling_params import SamplingParams
from hanbit.tokenizers.load import load
from tests.engine.folders import VOCABULARY, theirs_of

PROMPTS = ["The quick", "안녕하세요", "The lazy dog."]


def test_what_may_not_follow_is_what_transformers_forbids() -> None:
    chance = random.Random(3)
    for _ in range(200):
        words = [[chance.randrange(4) for _ in range(chance.randint(1, 4))] for _ in range(5)]
        tokens = [chance.randrange(4) for _ in range(chance.randint(5, 9))]
        theirs = logits_process.NoBadWordsLogitsProcessor(words)(torch.tensor([tokens]), torch.zeros(1, 4))
        assert BadWords(words).after(tokens) == set(theirs[0].isinf().nonzero().flatten().tolist())


def test_nothing_is_forbidden_where_there_are_no_words() -> None:
    assert BadWords([]).after([]) == BadWords([[1, 2]]).after([]) == set()


def test_greedy_answers_with_bad_words_are_those_of_transformers(folder: Path, llm: LLM) -> None:
    free = llm.generate(PROMPTS, SamplingParams(temperature=0, max_tokens=12))
    words = [list(output.token_ids[2:4]) for output in free] + [[free[0].token_ids[0]]]
    outputs = llm.generate(PROMPTS, SamplingParams(temperature=0, max_tokens=12, bad_words=words))
    model = theirs_of(folder)
    for output in outputs:
        theirs = model.generate(
            torch.tensor([output.prompt_token_ids]), max_new_tokens=12, do_sample=False, bad_words_ids=words,
            eos_token_id=sorted(llm.defaults.end_ids), pad_token_id=0,
        )  # fmt: skip
        assert output.token_ids == tuple(theirs[0, len(output.prompt_token_ids) :].tolist())
    assert [one.token_ids for one in outputs] != [one.token_ids for one in free]


def test_a_text_is_forbidden_with_and_without_a_space_before_it(folder: Path) -> None:
    tokenizer = load(folder)
    found = token_ids_of(["quick", [7, 8], " "], tokenizer)
    assert tokenizer.encode(" quick") in found
    assert tokenizer.encode("quick") in found
    assert [7, 8] in found
    assert tokenizer.encode(" ") in found


def test_what_is_drawn_by_seed_has_no_bad_word_whoever_else_is_answered(llm: LLM) -> None:
    params = [
        SamplingParams(seed=seed, max_tokens=60, ignore_eos=True, bad_words=[[token] for token in range(seed, 400, 2)])
        for seed in (0, 1)
    ]
    together = llm.generate(PROMPTS[:2], params)
    for start, output in enumerate(together):
        assert not set(output.token_ids) & set(range(start, 400, 2))
        assert output == llm.generate([PROMPTS[start]], params[start])[0]


def test_forbidding_every_token_ends_the_answer_with_that_reason_and_no_other(llm: LLM) -> None:
    nothing = SamplingParams(temperature=0, bad_words=[[id] for id in range(VOCABULARY)])
    with pytest.raises(GenerationError, match="every token of the vocabulary is forbidden"):
        llm.generate(["The"], nothing)
    assert len(llm.generate(["The"], SamplingParams(temperature=0, max_tokens=3, ignore_eos=True))[0].token_ids) == 3


def test_a_bad_word_outside_the_vocabulary_is_refused(llm: LLM) -> None:
    with pytest.raises(GenerationError, match=f"bad_words has token {VOCABULARY}"):
        llm.generate(["The"], SamplingParams(bad_words=[[VOCABULARY]]))

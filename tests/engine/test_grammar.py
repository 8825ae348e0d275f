"""Answers of random models have the form they are asked to have, by judges that know nothing of the engine: jsonschema,
`re`, Python's own parser, a plain loop over the vocabulary."""

import ast
import json
import re
import threading
from dataclasses import replace
from typing import Any

import jsonschema
import pytest

from hanbit.common.errors import GenerationError, GrammarError
from hanbit.engine.batch import Batch
from hanbit.engine.grammar import Grammars
from hanbit.engine.llm import LLM
from hanbit.engine.parts import Limits
from hanbit.engine.runner import Runner
from hanbit.engine.sampling_params import SamplingParams
from hanbit.engine.structured_outputs import LONGEST, StructuredOutputs
from tests.engine.folders import VOCABULARY

PROMPTS = ["The quick", "안녕하세요", "A"]
# every text of these is short: a random model does not come to an end by itself
SCHEMAS: dict[str, Any] = {
    "object": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 4},
            "age": {"type": "integer", "minimum": 0, "maximum": 130},
            "kind": {"enum": ["cat", "개", None]},
        },
        "required": ["name", "age", "kind"],
        "additionalProperties": False,
    },
    "list": {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4},
    "either": {"anyOf": [{"const": 3}, {"type": "string", "pattern": "^[a-f]{2,5}$"}]},
    "nested": {
        "$defs": {"leaf": {"type": "object", "properties": {"v": {"enum": [1, 2]}}, "required": ["v"],
                           "additionalProperties": False}},
        "type": "object",
        "properties": {"left": {"$ref": "#/$defs/leaf"}, "right": {"$ref": "#/$defs/leaf"}},
        "required": ["left", "right"],
        "additionalProperties": False,
    },
}  # fmt: skip
CALCULATION = 'start: sum\nsum: part | sum " + " part\npart: /[1-9][0-9]{0,2}/ | "(" sum ")"\n'


def form(disable_any_whitespace: bool = True, **given: Any) -> StructuredOutputs:
    return StructuredOutputs(**given, disable_any_whitespace=disable_any_whitespace and "json" in given)


def answers(llm: LLM, what: StructuredOutputs, **more: Any) -> list[str]:
    """Of whole answers: greedy and drawn, to several prompts in one batch."""
    params = [SamplingParams(temperature=0, max_tokens=60, structured_outputs=what, **more)] * len(PROMPTS)
    params += [replace(params[0], temperature=1.5, seed=seed) for seed in range(len(PROMPTS))]
    outputs = llm.generate(PROMPTS * 2, params)
    assert {output.finish_reason for output in outputs} == {"stop"}
    assert outputs[4] == llm.generate([PROMPTS[1]], params[4])[0]  # whatever else is answered
    return [output.text for output in outputs]


@pytest.mark.parametrize("name", SCHEMAS)
def test_answers_of_a_random_model_are_valid_by_their_schema(name: str, llm: LLM) -> None:
    for text in answers(llm, form(json=SCHEMAS[name])):
        jsonschema.validate(json.loads(text), SCHEMAS[name])


def test_json_may_have_whitespace_unless_that_is_switched_off(llm: LLM) -> None:
    schema = {"type": "array", "items": {"const": 1}, "minItems": 1, "maxItems": 1}
    biased = {"logit_bias": {llm.tokenizer.encode(" ")[0]: 100.0}}
    for text in answers(llm, form(False, json=schema), **biased):
        assert json.loads(text) == [1]
        assert " " in text
    assert answers(llm, form(json=schema), **biased) == ["[1]"] * 6


def test_a_json_object_is_one_of_any_members(llm: LLM) -> None:
    params = SamplingParams(seed=1, max_tokens=20, structured_outputs=StructuredOutputs(json_object=True))
    assert llm.generate(["A"], params)[0].text.startswith("{")


@pytest.mark.parametrize("pattern", ["[a-z]{3,9}", "(안녕|하세요){2}!?", r"\d{3}-\d{4}", "a|b|😀"])
def test_answers_match_a_pattern(pattern: str, llm: LLM) -> None:
    for text in answers(llm, form(regex=pattern)):
        assert re.fullmatch(pattern, text)


def test_an_answer_is_one_of_the_choices(llm: LLM) -> None:
    choices = ["yes", "no", "모르겠다", 'a "quoted" \\ one\n']
    assert set(answers(llm, form(choice=choices))) <= set(choices)


@pytest.mark.parametrize(
    "grammar",
    [CALCULATION, 'root ::= sum\nsum ::= part | part " + " sum\npart ::= [1-9] [0-9]? | "(" sum ")"\n'],
    ids=["lark", "gbnf"],
)
def test_answers_follow_a_grammar(grammar: str, llm: LLM) -> None:
    params = SamplingParams(temperature=1.0, max_tokens=400, structured_outputs=form(grammar=grammar))
    outputs = [output for seed in range(12) for output in llm.generate(["1"], replace(params, seed=seed))]
    ended = [output.text for output in outputs if output.finish_reason == "stop"]
    assert len(ended) > 3
    for text in ended:
        ast.parse(text, mode="eval")
        assert re.fullmatch(r"[0-9()+ ]+", text)


def test_the_allowed_tokens_are_those_of_a_plain_loop_over_the_vocabulary(llm: LLM) -> None:
    texts = ["the quick", "them", "fox", "안녕"]
    grammar = llm.grammars.start(form(choice=texts))
    words = {id: llm.tokenizer.decode([id]) for id in range(llm.tokenizer.vocabulary_size)}
    said = ""
    for token in llm.tokenizer.encode("the quick"):
        wanted = {id for id, word in words.items() if word and any(text.startswith(said + word) for text in texts)}
        allowed = set(grammar.allowed().nonzero()[0].tolist())
        assert {id for id in allowed if "\ufffd" not in words.get(id, "")} == wanted
        grammar.accept(token)
        said += words[token]
    assert grammar.is_complete


def test_a_form_goes_before_min_tokens_and_a_stop_text_counts_behind_them(llm: LLM) -> None:
    """Grammar, stop and min_tokens together."""
    asked = SamplingParams(seed=2, temperature=1.2, max_tokens=40, structured_outputs=form(regex="[a-y]{5,30}z"))
    free = llm.generate(["A"], asked)[0]
    stop = free.text[3:5]
    first = free.text.index(stop)
    cut = llm.generate(["A"], replace(asked, stop=[stop]))[0]
    assert (cut.text, cut.finish_reason) == (free.text[:first], "stop")
    late = llm.generate(["A"], replace(asked, stop=[stop], min_tokens=len(free.token_ids)))[0]
    assert late.text == free.text
    complete = llm.generate(["A"], replace(asked, min_tokens=39))[0]
    assert re.fullmatch("[a-y]{5,30}z", complete.text)
    assert complete.finish_reason == "stop"


def test_min_tokens_keep_the_end_away_while_the_form_can_go_on(llm: LLM) -> None:
    (end,) = llm.defaults.end_ids
    asked = SamplingParams(temperature=0, max_tokens=30, logit_bias={end: 100.0}, structured_outputs=form(regex="a*"))
    assert llm.generate(["A"], asked)[0].token_ids == (end,)
    found = llm.generate(["A"], replace(asked, min_tokens=5))[0]
    assert len(found.token_ids) == 6
    assert set(found.text) == {"a"}


def test_the_end_token_ends_a_form_even_where_it_is_ignored(llm: LLM) -> None:
    (end,) = llm.defaults.end_ids
    params = SamplingParams(logit_bias={end: 100.0}, structured_outputs=form(regex="[a-z]{2,}"), ignore_eos=True)
    found = llm.generate(["A"], params)[0]
    assert found.finish_reason == "stop"
    assert found.token_ids[-1] == end


def test_bad_words_and_a_form_hold_together_or_say_that_they_cannot(llm: LLM) -> None:
    asked = SamplingParams(temperature=0, max_tokens=20, structured_outputs=form(choice=["yes", "no"]))
    (answer,) = {llm.generate(["A"], asked)[0].text}
    other = {"yes": "no", "no": "yes"}[answer]
    starts = [[id] for id in range(VOCABULARY) if (word := llm.tokenizer.decode([id])) and answer.startswith(word)]
    assert llm.generate(["A"], replace(asked, bad_words=starts))[0].text == other
    starts += [[id] for id in range(VOCABULARY) if (word := llm.tokenizer.decode([id])) and other.startswith(word)]
    with pytest.raises(GenerationError, match="every token of the vocabulary is forbidden"):
        llm.generate(["A"], replace(asked, bad_words=starts))


def test_n_answers_walk_through_their_form_apart(llm: LLM) -> None:
    asked = SamplingParams(seed=5, temperature=1.3, max_tokens=60, structured_outputs=form(json=SCHEMAS["object"]))
    (output,) = llm.generate(["A"], replace(asked, n=3, best_of=4))
    made = {llm.generate(["A"], replace(asked, seed=5 + index))[0].text for index in range(4)}
    assert {one.text for one in (output, *output.others)} < made


def test_a_preempted_answer_goes_on_in_its_form(llm: LLM) -> None:
    """Eight blocks for sixteen answers: they give theirs up and come again."""
    batch = Batch(Runner(llm.model, 8, 4), Limits(16, step_tokens=16, patience=4))
    params = [
        SamplingParams(seed=seed, temperature=1.3, max_tokens=20, structured_outputs=form(regex="[a-z]{12,}"))
        for seed in range(16)
    ]
    sequences = [llm.sequence([seed, 1, 2], one) for seed, one in enumerate(params)]
    for sequence in sequences:
        batch.add(sequence)
    while not batch.is_empty:
        batch.step()
    assert batch.cache_counts.preempted > 0
    outputs = llm.generate([[seed, 1, 2] for seed in range(16)], params)
    assert [sequence.output() for sequence in sequences] == outputs
    assert all(re.fullmatch("[a-z]+", output.text) for output in outputs)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "has nothing"),
    "two": ({"regex": "a", "choice": ["b"]}, "has regex, choice"),
    "a schema that is no JSON": ({"json": "{"}, "json is not JSON"),
    "a list for a schema": ({"json": [1]}, "must be a JSON schema"),
    "an unknown type": ({"json": {"type": "objekt"}}, "json: Invalid type: objekt"),
    "a keyword that is not kept": ({"json": {"type": "array", "uniqueItems": True}}, r'json: .*"uniqueItems"'),
    "a schema of another address": ({"json": {"$ref": "http://x/y"}}, "json: .*http://x/y"),
    "a schema of nothing": ({"json": {"allOf": [{"type": "string"}, {"type": "null"}]}}, "json: Unsatisfiable"),
    "a pattern that does not end": ({"regex": "("}, "regex: .*invalid regex"),
    "a pattern that looks ahead": ({"regex": "(?=a)b"}, "regex: .*invalid regex"),
    "an unknown rule": ({"grammar": "start: foo"}, "grammar: .*unknown name"),
    "no grammar": ({"grammar": "%%%"}, "grammar: .*Expected name"),
    "no choices": ({"choice": []}, "must be a list of texts"),
    "a choice that is no text": ({"choice": [3]}, "must be a list of texts"),
    "a switch that is none": ({"regex": "a", "json_object": "yes"}, "has regex, json_object"),
    "a schema nested without end": ({"json": '{"items":' * 400 + "{}" + "}" * 400}, "json: recursion limit"),
    "a grammar nested without end": ({"grammar": "start: " + "(" * 30000 + '"a"' + ")" * 30000}, "too deeply nested"),
    "a chain of rules without end": (
        {"grammar": "start: r0\n" + "".join(f"r{i}: r{i + 1}\n" for i in range(4000)) + 'r4000: "a"'},
        "grammar has 4002 rules",
    ),
    "half a character": ({"regex": "\ud800"}, "regex has half a surrogate pair"),
    "half a character of a choice": ({"choice": ["a", "\udfff"]}, "choice has half a surrogate pair"),
    "half a character of a grammar": ({"grammar": 'start: "\ud800"'}, "grammar has half a surrogate pair"),
    "half a character of a schema": ({"json": {"enum": ["\ud800"]}}, "json has half a surrogate pair"),
    "a pattern that ends in the midst": ({"regex": "a\\"}, "regex ends with a backslash"),
    "a megabyte of schema": ({"json": {"enum": ["x" * 2**20]}}, f"json has .* characters; from 1 to {LONGEST}"),
    "a megabyte of grammar": ({"grammar": "#" * 2**20}, f"grammar has {2**20} characters"),
    "a megabyte of choices": ({"choice": ["x" * 2**10] * 2**10}, "choice has .* characters"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_form_that_cannot_be_kept_is_refused_by_name_before_any_work(case: str, llm: LLM) -> None:
    given, words = WRONG[case]
    with pytest.raises(GrammarError, match=f"structured_outputs.* ?{words}"):
        llm.sequence("A", SamplingParams(structured_outputs=StructuredOutputs(**given)))


def test_a_form_past_the_librarys_limits_ends_its_own_answer_only(llm: LLM) -> None:
    endless = form(regex="((([a-z]{1,50}){1,50}){1,50}){1,50}")
    asked = SamplingParams(seed=1, max_tokens=200, temperature=1.5)
    good, bad = llm.sequence("A", asked), llm.sequence("A", replace(asked, structured_outputs=endless))
    batch = llm.batch(4)
    events: dict[Any, Any] = {}
    batch.add(good)
    batch.add(bad)
    while not batch.is_empty:
        events |= dict(batch.step())
    assert isinstance(events[bad], GrammarError)
    assert "Make it simpler" in str(events[bad])
    assert good.output() == llm.generate(["A"], asked)[0]
    assert batch.cache_counts.blocks_used == 0


def test_threads_that_ask_for_one_form_each_walk_through_it_from_its_beginning(llm: LLM) -> None:
    grammars = Grammars(llm.tokenizer, VOCABULARY, llm.defaults.end_ids)
    what, found = form(choice=["yes"]), []

    def walk() -> None:
        grammar = grammars.start(what)
        for token in llm.tokenizer.encode("yes"):
            grammar.accept(token)
        found.append(grammar.is_complete)

    threads = [threading.Thread(target=walk) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 8
    assert grammars.has(what)
    with pytest.raises(GrammarError, match="token"):
        grammars.start(what).accept(llm.tokenizer.encode("no")[0])

"""Tools through OpenAI's own client: forced and free calls, streamed and whole, told back; what is wrong is refused."""

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import jsonschema
import openai
import pytest
from openai import OpenAI
from tokenizers import Tokenizer

from hanbit.engine.llm import LLM
from hanbit.engine.service import Service
from hanbit.server.embedding_model import EmbeddingModel
from hanbit.server.frontends.openai import routes
from hanbit.server.frontends.openai.tool_calls import Arguments, Call, CallReader, Event, Said
from hanbit.server.language_model import LanguageModel
from hanbit.tokenizers.tools import HERMES, LLAMA3_JSON, MISTRAL, ToolFormat
from tests.server.openai_server import TEMPLATE, serving, write_chat_folder

WEATHER = {
    "type": "object",
    "properties": {"city": {"enum": ["서울", "Paris"]}, "days": {"type": "integer", "minimum": 1, "maximum": 7}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
ADD = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
TOOLS: Any = [
    {"type": "function", "function": {"name": "weather", "description": "of a city", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "add", "parameters": ADD}},
]
SCHEMAS = {"weather": WEATHER, "add": ADD | {"additionalProperties": False}}  # what is not described is not given
HELLO: Any = [{"role": "user", "content": "quick fox?"}]
# one for each way of writing calls; the last knows no tools
TEMPLATES = {
    "hermes": "{% for t in tools or [] %}{{ t.function.name }} {% endfor %}{# <tool_call> #}" + TEMPLATE,
    "mistral": "{% for t in tools or [] %}{{ t.function.name }} {% endfor %}{# [TOOL_CALLS] #}" + TEMPLATE,
    "llama": '{% for t in tools or [] %}{{ t.function.name }} {% endfor %}{# ipython "parameters" #}' + TEMPLATE,
    "none": TEMPLATE,
}
TEMPLATES["marked"] = TEMPLATES["hermes"]
SPECIAL = {"mistral": "[TOOL_CALLS]", "marked": "<tool_call>"}  # the mark is a token that texts do not show


class Models:
    def __init__(self, services: dict[str, Service]) -> None:
        self._services = services

    def language_models(self) -> dict[str, LanguageModel]:
        return {name: LanguageModel(name, one, None, created=1) for name, one in self._services.items()}

    def embedding_models(self) -> dict[str, EmbeddingModel]:
        return {}


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Service]]:
    made = {}
    for name, template in TEMPLATES.items():
        folder = write_chat_folder(tmp_path_factory.mktemp(name), "llama")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 2048}))
        (folder / "chat_template.jinja").write_text(template)
        if name in SPECIAL:
            core = Tokenizer.from_file(str(folder / "tokenizer.json"))
            core.add_special_tokens([SPECIAL[name]])
            core.save(str(folder / "tokenizer.json"))
        made[name] = Service(LLM(folder, device="cpu", num_blocks=400), max_sequences=4)
    yield made
    for service in made.values():
        service.close()


@pytest.fixture(scope="module")
def address(services: dict[str, Service]) -> Iterator[str]:
    with serving(routes(Models(services))) as address:
        yield address


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


def check(calls: Any) -> list[str]:
    for call in calls:
        assert call.type == "function"
        jsonschema.validate(json.loads(call.function.arguments), SCHEMAS[call.function.name])
    assert len({call.id for call in calls}) == len(calls)
    return [call.function.name for call in calls]


@pytest.mark.parametrize("model", TEMPLATES)
def test_a_required_call_is_a_known_tools_with_arguments_of_its_schema(client: OpenAI, model: str) -> None:
    """A random model's, at random: what it says has this form because it has no choice."""
    names = set()
    for seed in range(4):
        found = client.chat.completions.create(
            model=model, messages=HELLO, tools=TOOLS, tool_choice="required", parallel_tool_calls=False, seed=seed
        )
        assert found.choices[0].finish_reason == "tool_calls"
        assert found.choices[0].message.content is None
        names |= set(check(found.choices[0].message.tool_calls))
        assert len(found.choices[0].message.tool_calls or ()) == 1
    assert names <= set(SCHEMAS)


@pytest.mark.parametrize("model", TEMPLATES)
def test_the_chosen_tool_is_called(client: OpenAI, model: str) -> None:
    choice: Any = {"type": "function", "function": {"name": "add"}}
    found = client.chat.completions.create(model=model, messages=HELLO, tools=TOOLS, tool_choice=choice, seed=1)
    assert found.choices[0].finish_reason == "stop"  # as OpenAI has it: the client has chosen
    assert check(found.choices[0].message.tool_calls) == ["add"]


@pytest.mark.parametrize("model", TEMPLATES)
def test_a_stream_says_the_same_calls(client: OpenAI, model: str) -> None:
    asked: Any = {"model": model, "messages": HELLO, "tools": TOOLS, "tool_choice": "required", "seed": 3, "n": 2}
    asked |= {"parallel_tool_calls": False}
    whole = client.chat.completions.create(**asked)
    with client.chat.completions.stream(**asked) as stream:
        for _ in stream:
            pass
        streamed = stream.get_final_completion()
    for one, other in zip(whole.choices, streamed.choices, strict=True):
        assert one.finish_reason == other.finish_reason
        ours = [(call.function.name, call.function.arguments) for call in one.message.tool_calls or ()]
        theirs = [(call.function.name, call.function.arguments) for call in other.message.tool_calls or ()]
        assert ours == theirs
        assert ours


@pytest.mark.parametrize("model", SPECIAL)
def test_a_free_answer_calls_known_tools_only(client: OpenAI, services: dict[str, Service], model: str) -> None:
    """The mark is made likely; what follows it must be a call, and is, whatever the model would rather say."""
    id = services[model].llm.tokenizer.special_id(SPECIAL[model])
    assert id is not None
    found = client.chat.completions.create(
        model=model, messages=HELLO, tools=TOOLS, seed=5, max_tokens=400, n=4, logit_bias={str(id): 12},
        parallel_tool_calls=False,
    )  # fmt: skip
    for choice in found.choices:
        assert SPECIAL[model] not in (choice.message.content or "")
    called = [choice.message.tool_calls for choice in found.choices if choice.finish_reason == "tool_calls"]
    assert called
    for calls in called:
        check(calls)


def test_what_was_called_is_told_to_the_model(client: OpenAI, services: dict[str, Service], address: str) -> None:
    called = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": true}'}}
    messages: Any = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "call_1", "content": "quick"},
    ]
    told = httpx2.post(f"{address}/tokenize", json={"model": "none", "messages": messages}).json()
    text = services["none"].llm.tokenizer.decode(told["tokens"])
    assert text == (
        '<user>quick fox?\n<assistant><tool_call>\n{"name": "add", "arguments": {"a": true}}\n</tool_call>\n'
        "<user><tool_response>\nquick\n</tool_response>\n<assistant>"
    )
    found = client.chat.completions.create(model="none", messages=messages, max_tokens=3)
    assert found.choices[0].message.tool_calls is None


def test_a_template_that_knows_no_tools_is_told_of_them_in_words(client: OpenAI) -> None:
    without = client.chat.completions.create(model="none", messages=HELLO, max_tokens=1).usage
    chosen = client.chat.completions.create(model="none", messages=HELLO, tools=TOOLS, tool_choice="none", max_tokens=1)
    told = client.chat.completions.create(model="none", messages=HELLO, tools=TOOLS, max_tokens=1).usage
    assert without is not None
    assert chosen.usage is not None
    assert told is not None
    assert chosen.usage.prompt_tokens == without.prompt_tokens
    assert told.prompt_tokens > without.prompt_tokens + 100


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a choice without tools": ({"tool_choice": "required"}, "tool_choice"),
    "a tool that is not there": (
        {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "sub"}}},
        "tool_choice",
    ),
    "two of one name": ({"tools": [TOOLS[1], TOOLS[1]]}, "tools"),
    "a name with blanks": ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
    "a kind that is not built": ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0].type"),
    "too many": (
        {"tools": [{"type": "function", "function": {"name": f"f{n}"}} for n in range(129)]},
        "tools",
    ),
    "a wrong schema": (
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "objekt"}}}]},
        "tools",
    ),
    "a megabyte of schemas": (
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"title": "x" * 2**20}}}]},
        "tools",
    ),
    "a form beside tools": ({"tools": TOOLS, "response_format": {"type": "json_object"}}, "tools"),
    "the old functions": ({"functions": [{"name": "f"}]}, "functions"),
    "an answer to no call": ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
    "a user's call": (
        {
            "messages": [
                {
                    "role": "user",
                    "content": "a",
                    "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}],
                }
            ]
        },
        "messages[0].tool_calls",
    ),
    "arguments that are no JSON": (
        {
            "messages": [
                *HELLO,
                {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{"}}]},
            ]
        },
        "messages",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_refused_with_its_field(client: OpenAI, case: str) -> None:
    fields, param = WRONG[case]
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**{"model": "hermes", "messages": HELLO, "max_tokens": 1, **fields})
    assert caught.value.param == param


A = '{"name": "f", "arguments": {"a": "x}\\"{[", "b": [1, {"c": 2}]}}'
B = '{"arguments": {"z": 1}, "name": "g"}'
CALLS = [("f", {"a": 'x}"{[', "b": [1, {"c": 2}]}), ("g", {"z": 1})]
ANSWERS: dict[str, tuple[ToolFormat, str, str, list[tuple[str, Any]]]] = {  # what is said, what is called
    "hermes": (
        HERMES,
        f"Wait.\n<tool_call>\n{A}\n</tool_call>\n<tool_call>\n{B}\n</tool_call>",
        "Wait.",
        CALLS,
    ),
    "text behind": (HERMES, f"<tool_call>{A}</tool_call> So.", " So.", CALLS[:1]),
    "no call": (HERMES, " a < b <tool \n", " a < b <tool \n", []),
    "a mark and no call": (HERMES, "a <tool_call> b", "a <tool_call> b", []),
    "another JSON": (HERMES, '<tool_call>{"x": 1}</tool_call>', '<tool_call>{"x": 1}</tool_call>', []),
    "mistral": (MISTRAL, f"[TOOL_CALLS] [{A}, {B}]", "", CALLS),
    "llama": (LLAMA3_JSON, '{"name": "f", "parameters": {"a": 1}}', "", [("f", {"a": 1})]),
    "llama says": (LLAMA3_JSON, '{"a": 1} is JSON', '{"a": 1} is JSON', []),
}


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("case", ANSWERS)
def test_an_answer_is_taken_apart_however_it_was_cut(case: str, size: int) -> None:
    format, text, said, called = ANSWERS[case]
    reader, events = CallReader(format), list[Event]()
    for start in range(0, len(text), size):
        events += reader.push(text[start : start + size])
    events += reader.finish()
    assert "".join(event.text for event in events if isinstance(event, Said)) == said
    found: list[list[str]] = []
    for event in events:
        if isinstance(event, Call):
            found.append([event.name, ""])
        elif isinstance(event, Arguments):
            found[-1][1] += event.text
    assert [(name, json.loads(arguments)) for name, arguments in found] == called
    assert reader.has_called == bool(called)

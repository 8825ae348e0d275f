"""OpenAI's own client against a running server: answers are those of `LLM.generate`, errors have their class."""

import asyncio
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import httpx2
import jsonschema
import openai
import pytest
from openai import OpenAI

from hanbit.common.errors import GenerationError
from hanbit.engine.grammar import Grammars
from hanbit.engine.llm import LLM
from hanbit.engine.sampling_params import SamplingParams
from hanbit.engine.service import Service
from hanbit.engine.structured_outputs import StructuredOutputs
from hanbit.server.embedding_model import EmbeddingModel
from hanbit.server.frontends.openai import routes
from hanbit.server.frontends.openai.requests import MOST_CHOICES
from hanbit.server.language_model import LanguageModel
from tests.engine.test_adapters import write_adapter
from tests.server.openai_server import serving, write_chat_folder

CONTEXT = 64
HELLO: Any = [{"role": "user", "content": "안녕"}]


@dataclass
class Models:
    """Two engines, one of them with an adapter beside its base."""

    services: dict[str, Service]

    def language_models(self) -> dict[str, LanguageModel]:
        named = {"tiny": ("tiny", None), "tiny-adapted": ("tiny", "adapted"), "org/other": ("other", None)}
        return {
            name: LanguageModel(name, self.services[service], adapter, created=1_700_000_000)
            for name, (service, adapter) in named.items()
        }

    def embedding_models(self) -> dict[str, EmbeddingModel]:
        return {}


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Service]]:
    folder = write_chat_folder(tmp_path_factory.mktemp("tiny"), "llama")
    adapter = tmp_path_factory.mktemp("adapter")
    write_adapter(folder, adapter, 3, ["q_proj", "v_proj"])
    tiny = LLM(folder, device="cpu")
    tiny.add_adapter("adapted", adapter)
    other = LLM(write_chat_folder(tmp_path_factory.mktemp("other"), "qwen2"), device="cpu")
    made = {"tiny": Service(tiny, max_sequences=4), "other": Service(other, max_sequences=1, max_waiting=1)}
    yield made
    for service in made.values():
        service.close()


@pytest.fixture(scope="module")
def address(services: dict[str, Service]) -> Iterator[str]:
    with serving(routes(Models(services))) as address:
        yield address


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def llm(services: dict[str, Service]) -> LLM:
    return services["tiny"].llm


def greedy(**more: Any) -> SamplingParams:
    return SamplingParams(**{"temperature": 0, "max_tokens": 12, **more})


def text_of(llm: LLM, prompt: str, **more: Any) -> str:
    return llm.generate([prompt], greedy(**more))[0].text


def test_a_completion_is_the_greedy_answer_of_the_engine_with_its_usage(client: OpenAI, llm: LLM) -> None:
    found = client.completions.create(model="tiny", prompt="The quick", max_tokens=12, temperature=0)
    theirs = llm.generate(["The quick"], greedy())[0]
    assert found.choices[0].text == theirs.text
    assert found.choices[0].finish_reason == theirs.finish_reason == "length"
    assert found.usage is not None
    assert found.usage.prompt_tokens == len(theirs.prompt_token_ids)
    assert found.usage.completion_tokens == len(theirs.token_ids) == 12
    assert found.usage.total_tokens == found.usage.prompt_tokens + 12
    assert (found.object, found.model) == ("text_completion", "tiny")


def test_prompts_may_be_texts_or_token_ids_one_or_many(client: OpenAI, llm: LLM) -> None:
    texts = ["The quick", "안녕하세요"]
    ids = [llm.tokenizer.encode(text) for text in texts]
    wanted = [text_of(llm, text) for text in texts]
    for prompt in (texts, ids):
        found = client.completions.create(model="tiny", prompt=prompt, max_tokens=12, temperature=0)
        assert [choice.text for choice in found.choices] == wanted
        assert [choice.index for choice in found.choices] == [0, 1]
        assert found.usage is not None
        assert found.usage.prompt_tokens == sum(map(len, ids))
    for prompt in (texts[0], ids[0]):
        found = client.completions.create(model="tiny", prompt=prompt, max_tokens=12, temperature=0)
        assert [choice.text for choice in found.choices] == wanted[:1]


def test_a_chat_is_the_engines_chat(client: OpenAI, llm: LLM) -> None:
    messages: Any = [{"role": "developer", "content": "Be kind."}, *HELLO]
    found = client.chat.completions.create(model="tiny", messages=messages, max_completion_tokens=12, temperature=0)
    theirs = llm.chat([{"role": "system", "content": "Be kind."}, *HELLO], greedy())
    assert found.choices[0].message.content == theirs.text
    assert found.choices[0].message.role == "assistant"
    assert found.choices[0].finish_reason == "length"
    assert found.usage is not None
    assert found.usage.prompt_tokens == len(theirs.prompt_token_ids)
    assert found.id.startswith("chatcmpl-")
    assert found._request_id is not None


def test_text_parts_are_lines_of_a_message(client: OpenAI, llm: LLM) -> None:
    parts: Any = [{"role": "user", "content": [{"type": "text", "text": "The"}, {"type": "text", "text": "dog"}]}]
    found = client.chat.completions.create(model="tiny", messages=parts, max_tokens=8, temperature=0)
    theirs = llm.chat([{"role": "user", "content": "The\ndog"}], greedy(max_tokens=8))
    assert found.choices[0].message.content == theirs.text


def test_an_answer_may_be_sent_back_as_the_client_holds_it(client: OpenAI, llm: LLM) -> None:
    first = client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=4, temperature=0)
    said = first.choices[0].message
    messages: Any = [*HELLO, said, {"role": "user", "content": "fox"}]
    found = client.chat.completions.create(model="tiny", messages=messages, max_tokens=4, temperature=0)
    talk = [*HELLO, {"role": "assistant", "content": said.content}, {"role": "user", "content": "fox"}]
    assert found.choices[0].message.content == llm.chat(talk, greedy(max_tokens=4)).text


def test_streamed_chunks_joined_are_the_answer_role_first_usage_last(client: OpenAI, llm: LLM) -> None:
    stream = client.chat.completions.create(
        model="tiny", messages=HELLO, max_tokens=20, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = list(stream)
    theirs = llm.chat(HELLO, greedy(max_tokens=20))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[0].choices[0].delta.content == ""
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == theirs.text
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices[0].finish_reason == theirs.finish_reason
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == len(theirs.token_ids)
    assert len({chunk.id for chunk in [*chunks, last]}) == 1


def test_a_streamed_completion_joined_is_the_answer(client: OpenAI, llm: LLM) -> None:
    stream = client.completions.create(model="tiny", prompt="The quick", max_tokens=20, temperature=0, stream=True)
    chunks = list(stream)
    assert "".join(chunk.choices[0].text for chunk in chunks) == text_of(llm, "The quick", max_tokens=20)
    assert chunks[-1].choices[0].finish_reason == "length"
    assert all(chunk.usage is None for chunk in chunks)


def test_the_bytes_of_a_stream_are_events_closed_by_done(address: str) -> None:
    body = {"model": "tiny", "messages": HELLO, "max_tokens": 3, "stream": True}
    response = httpx2.post(f"{address}/v1/chat/completions", json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    *events, done, rest = response.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    for event in events:
        assert json.loads(event.removeprefix("data: "))["object"] == "chat.completion.chunk"


def test_many_streams_of_one_request_keep_apart(client: OpenAI, llm: LLM) -> None:
    prompts = ["The quick", "안녕하세요", "dog"]
    stream = client.completions.create(
        model="tiny", prompt=prompts, n=2, max_tokens=15, temperature=0, stream=True, echo=True
    )
    texts = [""] * 6
    for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    wanted = [prompt + text_of(llm, prompt, max_tokens=15) for prompt in prompts]
    assert texts == [text for text in wanted for _ in range(2)]


def test_the_async_client_streams_too(address: str, llm: LLM) -> None:
    async def ask() -> str:
        async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none") as client:
            stream = await client.chat.completions.create(
                model="tiny", messages=HELLO, max_tokens=20, temperature=0, stream=True
            )
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert asyncio.run(ask()) == llm.chat(HELLO, greedy(max_tokens=20)).text


def test_requests_at_the_same_time_get_their_own_answers(client: OpenAI, llm: LLM) -> None:
    prompts = [f"The {word} " for word in ("quick", "brown", "fox", "lazy", "dog", "안녕", "대한민국", "국은")]

    def ask(prompt: str) -> str:
        return client.completions.create(model="tiny", prompt=prompt, max_tokens=20, temperature=0).choices[0].text

    with ThreadPoolExecutor(len(prompts)) as pool:
        found = list(pool.map(ask, prompts))
    assert found == [output.text for output in llm.generate(prompts, greedy(max_tokens=20))]


def test_the_model_field_chooses_base_adapter_or_another_model(
    client: OpenAI, llm: LLM, services: dict[str, Service]
) -> None:
    wanted = {
        "tiny": llm.generate(["The"], greedy()),
        "tiny-adapted": llm.generate(["The"], greedy(), adapter="adapted"),
        "org/other": services["other"].llm.generate(["The"], greedy()),
    }
    texts = {output[0].text for output in wanted.values()}
    assert len(texts) == 3
    for name, outputs in wanted.items():
        found = client.completions.create(model=name, prompt="The", max_tokens=12, temperature=0)
        assert found.choices[0].text == outputs[0].text


def test_models_are_listed_and_shown_by_name(client: OpenAI) -> None:
    found = {model.id: model for model in client.models.list()}
    assert sorted(found) == ["org/other", "tiny", "tiny-adapted"]
    assert client.models.retrieve("org/other") == found["org/other"]
    assert found["tiny"].created == 1_700_000_000
    assert found["tiny"].model_dump()["max_model_len"] == CONTEXT
    assert found["tiny-adapted"].model_dump()["parent"] == "tiny"


def test_a_seed_repeats_an_answer_and_choices_differ(client: OpenAI) -> None:
    def ask(seed: int) -> list[str]:
        found = client.completions.create(model="tiny", prompt="The", max_tokens=16, n=3, seed=seed, temperature=1.5)
        return [choice.text for choice in found.choices]

    assert ask(-7) == ask(-7)
    assert len(set(ask(-7))) == 3
    assert ask(-7) != ask(8)


def test_the_best_of_several_are_those_of_the_engine_and_all_are_counted(client: OpenAI, llm: LLM) -> None:
    asked: dict[str, Any] = {"model": "tiny", "max_tokens": 12, "temperature": 0.9, "seed": 3}
    found = client.completions.create(prompt=["The quick", "안녕"], n=2, best_of=4, **asked)
    params = SamplingParams(max_tokens=12, temperature=0.9, seed=3, n=2, best_of=4)
    wanted = [one.text for output in llm.generate(["The quick", "안녕"], params) for one in (output, *output.others)]
    assert [choice.text for choice in found.choices] == wanted
    assert all(choice.logprobs is None for choice in found.choices)
    made = [
        client.completions.create(prompt=prompt, n=4, **asked).usage.completion_tokens  # type: ignore[union-attr]
        for prompt in ("The quick", "안녕")
    ]
    assert found.usage is not None
    assert found.usage.completion_tokens == sum(made)
    assert found.usage.prompt_tokens == sum(len(llm.tokenizer.encode(text)) for text in ("The quick", "안녕"))


def test_a_stop_text_ends_the_answer_and_says_so(client: OpenAI, llm: LLM) -> None:
    free = text_of(llm, "The", max_tokens=30)
    stop = free[6:8]
    for given in (stop, [stop, "never said"]):
        found = client.completions.create(model="tiny", prompt="The", max_tokens=30, temperature=0, stop=given)
        assert found.choices[0].text == free[: free.index(stop)]
        assert found.choices[0].finish_reason == "stop"


def test_sampling_fields_reach_the_engine(client: OpenAI, llm: LLM) -> None:
    fields: dict[str, Any] = {"presence_penalty": 1.5, "frequency_penalty": 0.5}
    extra: dict[str, Any] = {"top_k": 5, "min_p": 0.01, "repetition_penalty": 1.4, "min_tokens": 3, "ignore_eos": True}
    extra["bad_words"] = ["fox", [9, 11]]
    bias = llm.generate(["The"], greedy(max_tokens=1))[0].token_ids[0]
    found = client.completions.create(
        model="tiny", prompt="The", max_tokens=12, temperature=0.7, top_p=0.9, seed=5, logit_bias={str(bias): -100},
        extra_body=extra, **fields,
    )  # fmt: skip
    params = SamplingParams(
        temperature=0.7, top_p=0.9, seed=5, max_tokens=12, logit_bias={bias: -100}, **extra, **fields
    )
    assert found.choices[0].text == llm.generate(["The"], params)[0].text


def test_beams_are_those_of_the_engine_whole_and_streamed(client: OpenAI, llm: LLM) -> None:
    asked: dict[str, Any] = {"model": "tiny", "prompt": ["The quick", "안녕"], "max_tokens": 8, "n": 2}
    params = SamplingParams(max_tokens=8, n=2, num_beams=3, length_penalty=0.5)
    outputs = llm.generate(["The quick", "안녕"], params)
    wanted = [one.text for output in outputs for one in (output, *output.others)]
    extra = {"num_beams": 3, "length_penalty": 0.5}
    found = client.completions.create(**asked, extra_body=extra)
    assert [choice.text for choice in found.choices] == wanted
    assert found.usage is not None
    assert found.usage.completion_tokens == sum(len(one.token_ids) for o in outputs for one in (o, *o.others))
    texts = [""] * 4
    for chunk in client.completions.create(**asked, stream=True, extra_body=extra):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == wanted
    theirs = {"use_beam_search": True, "length_penalty": 0.5, "best_of": 3}
    assert [choice.text for choice in client.completions.create(**asked, extra_body=theirs).choices] == wanted


def test_the_makers_search_counts_unless_the_request_says_otherwise(
    client: OpenAI, llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, search = [[id] for id in range(100, 140)], {"num_beams": 3, "length_penalty": 0.5}
    monkeypatch.setattr(llm, "defaults", replace(llm.defaults, sampling={"bad_words": words, **search}, num_answers=3))
    asked: dict[str, Any] = {"model": "tiny", "prompt": "The quick", "max_tokens": 8}

    def text(**more: Any) -> str:
        params = SamplingParams(**{"max_tokens": 8, "bad_words": words, **more})
        return llm.generate(["The quick"], params)[0].text

    (found,) = client.completions.create(**asked).choices
    assert found.text == text(**search)
    pieces = [chunk.choices[0].text for chunk in client.completions.create(**asked, stream=True)]
    assert "".join(pieces) == found.text
    others = client.completions.create(**asked, n=2).choices
    assert others[0].text == found.text != others[1].text
    for more in ({"temperature": 0.7, "seed": 5}, {"seed": 5}, {"best_of": 2, "seed": 5}):
        assert client.completions.create(**asked, **more).choices[0].text == text(**more)
    assert len(client.completions.create(**asked, n=4).choices) == 4
    turn = {"session_id": "a", "session_start": True, "session_end": True}
    assert client.completions.create(**asked, temperature=0, extra_body=turn).choices[0].text == text(temperature=0)
    assert client.completions.create(**asked, extra_body=turn).choices[0].text
    free = client.completions.create(**asked, extra_body={"bad_words": [], "num_beams": 2})
    assert free.choices[0].text == text(bad_words=[], num_beams=2, length_penalty=0.5)


CAT: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 4}, "lives": {"enum": [7, 9]}},
    "required": ["name", "lives"],
    "additionalProperties": False,
}


def test_a_schema_is_kept_in_chats_completions_and_streams(client: OpenAI, llm: LLM) -> None:
    blank = {"bad_words": [[id] for id in range(400) if llm.tokenizer.decode([id]).isspace()]}  # so that 44 tokens do
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "cat", "strict": True, "schema": CAT}}
    chat = client.chat.completions.create(
        model="tiny", messages=HELLO, seed=1, temperature=1.2, max_tokens=44, response_format=wanted, n=2,
        extra_body=blank,
    )  # fmt: skip
    for choice in chat.choices:
        jsonschema.validate(json.loads(choice.message.content or ""), CAT)
        assert choice.finish_reason == "stop"
    stream = client.completions.create(
        model="tiny", prompt="A", seed=1, max_tokens=50, stream=True, extra_body={"response_format": wanted, **blank}
    )
    jsonschema.validate(json.loads("".join(chunk.choices[0].text for chunk in stream)), CAT)
    found = client.chat.completions.create(
        model="tiny", messages=HELLO, seed=1, max_tokens=8, response_format={"type": "json_object"}
    )
    assert (found.choices[0].message.content or "").startswith("{")


@pytest.mark.parametrize(
    ("fields", "pattern"),
    [
        ({"structured_outputs": {"regex": "[a-f]{2,4}"}}, "[a-f]{2,4}"),
        ({"structured_outputs": {"choice": ["yes", "no"]}}, "yes|no"),
        ({"structured_outputs": {"json": {"const": 5}, "disable_any_whitespace": True}}, "5"),
        ({"structured_outputs": {"grammar": 'root ::= "a" [0-9]'}}, "a[0-9]"),
        ({"guided_json": '{"enum": [1, 2]}'}, "1|2"),
        ({"guided_regex": "안녕|x"}, "안녕|x"),
        ({"guided_choice": ["a", "b"]}, "a|b"),
        ({"guided_grammar": 'start: "a" | "b"'}, "a|b"),
    ],
    ids=str,
)
def test_forms_by_vllms_names_are_kept(client: OpenAI, fields: dict[str, Any], pattern: str) -> None:
    found = client.completions.create(model="tiny", prompt=["A", "B"], seed=4, max_tokens=20, extra_body=fields)
    for choice in found.choices:
        assert re.fullmatch(pattern, choice.text)


def test_a_form_is_compiled_away_from_the_loop_and_not_without_end(
    client: OpenAI, services: dict[str, Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    grammars, go_on = services["tiny"].llm.grammars, threading.Event()
    threads: list[str] = []

    def slow(form: StructuredOutputs) -> Any:
        threads.append(threading.current_thread().name)
        assert go_on.wait(20)
        return Grammars.start(grammars, form)

    def ask(number: int) -> Any:
        return client.completions.create(
            model="tiny", prompt="A", max_tokens=9, extra_body={"guided_regex": f"a{{{number}}}"}
        )

    monkeypatch.setattr(grammars, "start", slow)
    with ThreadPoolExecutor(16) as pool:
        compiling = [pool.submit(ask, number) for number in range(1, 17)]
        wait_until(lambda: services["tiny"]._num_compiling == 16)
        client.completions.create(model="tiny", prompt="A", max_tokens=3)  # others go on meanwhile
        with pytest.raises(openai.RateLimitError):
            ask(20)
        monkeypatch.undo()
        go_on.set()
        assert [one.result().choices[0].text for one in compiling] == ["a" * min(number, 9) for number in range(1, 17)]
    assert set(threads) == {"hanbit-grammars_0"}


def test_logprobs_are_the_engines_in_both_shapes(client: OpenAI, llm: LLM) -> None:
    chat = client.chat.completions.create(
        model="tiny", messages=HELLO, max_tokens=6, temperature=0, logprobs=True, top_logprobs=3
    )
    theirs = llm.chat(HELLO, greedy(max_tokens=6, logprobs=3))
    assert chat.choices[0].logprobs is not None
    told = chat.choices[0].logprobs.content
    assert told is not None
    assert [one.logprob for one in told] == pytest.approx([one.logprob for one in theirs.logprobs], abs=1e-4)
    assert [one.token for one in told] == [llm.tokenizer.decode([id]) for id in theirs.token_ids]
    assert all(len(one.top_logprobs) == 3 for one in told)

    output = llm.generate(["The quick"], greedy(max_tokens=6, logprobs=2))[0]
    stream = client.completions.create(
        model="tiny", prompt="The quick", max_tokens=6, temperature=0, logprobs=2, stream=True
    )
    parts = [chunk.choices[0].logprobs for chunk in stream]
    tokens = [token for part in parts if part is not None for token in part.tokens or []]
    offsets = [offset for part in parts if part is not None for offset in part.text_offset or []]
    assert tokens == [llm.tokenizer.decode([id]) for id in output.token_ids]
    assert offsets == [sum(map(len, tokens[:place])) for place in range(len(tokens))]


@pytest.mark.parametrize("max_tokens", [0, 1, 3])
def test_an_echo_tells_how_likely_the_prompt_was_as_lm_eval_reads_it(max_tokens: int, client: OpenAI, llm: LLM) -> None:
    """Its `local-completions`: ids in, sums of token_logprobs behind a context, is the likeliest token the one told?"""
    prompts = [llm.tokenizer.encode("The quick 안녕하세요 fox"), llm.tokenizer.encode("A")]
    asked: dict[str, Any] = {"model": "tiny", "prompt": prompts, "max_tokens": max_tokens, "temperature": 0}
    found = client.completions.create(**asked, echo=True, logprobs=2)
    params = greedy(max_tokens=max_tokens, logprobs=2, prompt_logprobs=2)
    for choice, output in zip(found.choices, llm.generate(prompts, params), strict=True):
        told = choice.logprobs
        assert told is not None
        assert told.tokens is not None
        assert told.top_logprobs is not None
        assert told.token_logprobs is not None
        assert (told.token_logprobs[0], told.top_logprobs[0]) == (None, None)
        wanted = [*output.prompt_logprobs[1:], *output.logprobs]
        assert told.token_logprobs[1:] == pytest.approx([one.logprob for one in wanted if one is not None], abs=1e-5)
        assert len(told.tokens) == len(output.prompt_token_ids) + max_tokens == len(told.top_logprobs)
        assert choice.text == llm.tokenizer.decode(output.prompt_token_ids) + output.text
        assert choice.finish_reason == "length"
    chunks = list(client.completions.create(**asked, echo=True, logprobs=2, stream=True))
    for index, choice in enumerate(found.choices):
        parts = [chunk.choices[0] for chunk in chunks if chunk.choices[0].index == index]
        assert "".join(part.text for part in parts) == choice.text
        tokens = [token for part in parts if part.logprobs is not None for token in part.logprobs.tokens or []]
        assert choice.logprobs is not None
        assert tokens == choice.logprobs.tokens
    found = client.completions.create(**{**asked, "max_tokens": 0}, echo=True)
    assert [choice.text for choice in found.choices] == [llm.tokenizer.decode(prompt) for prompt in prompts]


def test_without_max_tokens_a_chat_may_fill_the_context(client: OpenAI, llm: LLM) -> None:
    found = client.chat.completions.create(model="tiny", messages=HELLO, temperature=0, extra_body={"ignore_eos": True})
    assert found.usage is not None
    assert found.usage.total_tokens == CONTEXT
    assert found.choices[0].finish_reason == "length"


def test_tokenize_and_detokenize_are_the_tokenizers(address: str, llm: LLM) -> None:
    text = "안녕, quick fox"
    found = httpx2.post(f"{address}/tokenize", json={"model": "tiny", "prompt": text}).json()
    assert found == {"tokens": llm.tokenizer.encode(text), "count": len(found["tokens"]), "max_model_len": CONTEXT}
    back = httpx2.post(f"{address}/detokenize", json={"model": "tiny", "tokens": found["tokens"]}).json()
    assert back == {"prompt": text}
    chat = httpx2.post(f"{address}/tokenize", json={"model": "tiny", "messages": HELLO}).json()
    assert chat["tokens"] == llm.chat_prompt(HELLO)


def test_fields_that_change_nothing_are_accepted(client: OpenAI) -> None:
    client.chat.completions.create(
        model="tiny", messages=HELLO, max_tokens=1, user="someone", metadata={"a": "b"}, store=False,
        service_tier="auto", parallel_tool_calls=True, response_format={"type": "text"}, tools=[], stop=None,
        tool_choice="auto", modalities=["text"],
    )  # fmt: skip


WRONG: dict[str, tuple[dict[str, Any], str | None, str | None]] = {  # body, param, code
    "no prompt that is one": ({"prompt": {"a": 1}}, "prompt", "invalid_value"),
    "texts and ids mixed": ({"prompt": ["a", 1]}, "prompt", "invalid_value"),
    "no prompt at all": ({"prompt": []}, "prompt", "invalid_value"),
    "ids outside the vocabulary": ({"prompt": [5, 99999]}, "prompt", "invalid_value"),
    "too long": ({"prompt": "fox " * 200}, "prompt", "context_length_exceeded"),
    "too many answers": ({"prompt": ["a"] * (MOST_CHOICES // 2 + 1), "n": 2}, "n", None),
    "n beyond": ({"n": MOST_CHOICES + 1}, "n", "invalid_value"),
    "temperature a text": ({"temperature": "hot"}, "temperature", "invalid_value"),
    "temperature below zero": ({"temperature": -1}, "temperature", "invalid_value"),
    "top_p of zero": ({"top_p": 0}, "top_p", "invalid_value"),
    "repetition_penalty of zero": ({"repetition_penalty": 0}, "repetition_penalty", "invalid_value"),
    "max_tokens of zero": ({"max_tokens": 0}, "max_tokens", "invalid_value"),
    "max_tokens true": ({"max_tokens": True}, "max_tokens", "invalid_value"),
    "an endless seed": ({"seed": 10**30}, "seed", "invalid_value"),
    "too many stops": ({"stop": ["x"] * 17}, "stop", "invalid_value"),
    "an empty stop": ({"stop": ""}, "stop", "invalid_value"),
    "bias of a word": ({"logit_bias": {"word": 1}}, "logit_bias", "invalid_value"),
    "a bad word that is none": ({"bad_words": [[]]}, "bad_words", "invalid_value"),
    "a bad word outside the vocabulary": ({"bad_words": [[99999]]}, "bad_words", "invalid_value"),
    "a form of no kind": ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
    "no schema": ({"response_format": {"type": "json_schema"}}, "response_format", "invalid_value"),
    "a wrong schema": (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "objekt"}}}},
        "response_format",
        "invalid_value",
    ),
    "a megabyte of grammar": ({"guided_grammar": "#" * 2**20}, "guided_grammar", "invalid_value"),
    "a wrong pattern": ({"structured_outputs": {"regex": "("}}, "structured_outputs", "invalid_value"),
    "two forms": ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice", None),
    "logprobs beyond": ({"logprobs": 21}, "logprobs", "invalid_value"),
    "a suffix": ({"suffix": "end"}, "suffix", "unsupported_parameter"),
    "beams beyond": ({"num_beams": 99}, "num_beams", "invalid_value"),
    "beams beside best_of": ({"num_beams": 2, "best_of": 3}, "best_of", "invalid_value"),
    "more beams than seats": ({"num_beams": 5}, "num_beams", "invalid_value"),
    "best of fewer than n": ({"best_of": 2, "n": 3}, "best_of", "invalid_value"),
    "best of two in a stream": ({"best_of": 2, "stream": True}, "best_of", None),
    "unknown": ({"temprature": 1}, "temprature", "unknown_parameter"),
    "stream options": ({"stream_options": {"usage": True}}, "stream_options.usage", "invalid_value"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_completion_is_refused_with_its_field(client: OpenAI, case: str) -> None:
    fields, param, code = WRONG[case]
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="tiny", prompt="a", extra_body=fields)
    assert (caught.value.param, caught.value.code) == (param, code)
    assert caught.value.type == "invalid_request_error"


WRONG_CHATS: dict[str, tuple[dict[str, Any], str]] = {
    "no messages": ({"messages": []}, "messages"),
    "an unknown role": ({"messages": [{"role": "wizard", "content": "a"}]}, "messages[0].role"),
    "an image": ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content"),
    "a field of a message": ({"messages": [{"role": "user", "content": "a", "colour": 1}]}, "messages[0].colour"),
    "no content": ({"messages": [{"role": "user"}]}, "messages[0].content"),
    "too long": ({"messages": [{"role": "user", "content": "fox " * 200}]}, "messages"),
    "tools that are none": ({"tools": [{"type": "function"}]}, "tools[0].function"),
    "effort": ({"reasoning_effort": "high"}, "reasoning_effort"),
    "top_logprobs alone": ({"top_logprobs": 2}, "top_logprobs"),
}


@pytest.mark.parametrize("case", WRONG_CHATS)
def test_a_wrong_chat_is_refused_with_its_field(client: OpenAI, case: str) -> None:
    fields, param = WRONG_CHATS[case]
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**{"model": "tiny", "messages": HELLO, **fields})
    assert caught.value.param == param


@pytest.mark.parametrize(
    "body",
    [b"", b"nonsense", b"[1]", b'{"model": "tiny", "prompt": "\\ud800"}', b"[" * 100_000, b'{"n": NaN}', b"\xff"],
)
def test_a_body_that_is_no_json_object_is_refused(address: str, body: bytes) -> None:
    response = httpx2.post(f"{address}/v1/completions", content=body)
    assert response.status_code == 400
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


def test_a_body_beyond_the_limit_is_refused_before_it_is_read(client: OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hanbit.server.frontends.body.MOST_INPUT_BYTES", 1000)
    with pytest.raises(openai.APIStatusError) as caught:
        client.completions.create(model="tiny", prompt="x" * 1001)
    assert (caught.value.status_code, caught.value.code) == (413, "request_too_large")


def test_an_unknown_model_is_not_found_and_the_known_are_named(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="tiny-adapted") as caught:
        client.chat.completions.create(model="gpt-9", messages=HELLO)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-9")
    with pytest.raises(openai.NotFoundError) as caught:
        client.moderations.create(model="tiny", input="a")
    assert caught.value.code == "unknown_url"


def wait_until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_full_engine_says_when_to_come_again(client: OpenAI, services: dict[str, Service]) -> None:
    other = services["other"]
    with pytest.raises(openai.RateLimitError) as caught:
        client.completions.create(model="org/other", prompt="The", n=3, max_tokens=40)
    assert caught.value.response.headers["retry-after"] == "1"
    assert caught.value.code == "rate_limit_exceeded"
    wait_until(lambda: other.running + other.waiting == 0)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_stops_the_work(
    address: str, services: dict[str, Service], stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = services["tiny"]
    slow = service._batch.step

    def step() -> Any:
        time.sleep(0.05)  # 50 tokens take 2.5 s: far longer than leaving
        return slow()

    monkeypatch.setattr(service._batch, "step", step)
    before = service.counts()
    body = {"model": "tiny", "prompt": ["a", "b"], "max_tokens": 50, "stream": stream, "ignore_eos": True}
    with httpx2.Client(timeout=0.4) as gone:
        if stream:
            with gone.stream("POST", f"{address}/v1/completions", json=body) as response:
                next(response.iter_lines())
        else:
            with pytest.raises(httpx2.ReadTimeout):
                gone.post(f"{address}/v1/completions", json=body)
    wait_until(lambda: service.running + service.waiting == 0)
    after = service.counts()
    assert after.cancelled == before.cancelled + 2
    assert after.generated_tokens - before.generated_tokens < 50


def test_a_failure_in_mid_stream_is_an_error_of_the_client(
    client: OpenAI, services: dict[str, Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = services["tiny"]
    real, count = service._batch.step, 0

    def step() -> Any:
        nonlocal count
        count += 1
        events = real()
        return [(sequence, GenerationError("broken weights")) for sequence, _ in events] if count > 3 else events

    monkeypatch.setattr(service._batch, "step", step)
    with pytest.raises(openai.APIError, match="broken weights"):
        list(client.completions.create(model="tiny", prompt="The", max_tokens=9, stream=True))

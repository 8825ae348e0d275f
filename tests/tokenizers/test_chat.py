"""Chat templates give transformers' text, and hostile ones get nowhere."""

from pathlib import Path
from typing import Any

import pytest

from hanbit.common.errors import DataError, GenerationError
from hanbit.tokenizers import chat
from hanbit.tokenizers.tokenizer import Tokenizer

CHATML = """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system
You are helpful<|im_end|>
' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

TURNS = """{{ bos_token }}
{% set ns = namespace(turns=0) %}
{%- for message in messages -%}
    {%- if message.role not in ["user", "assistant"] %}
        {{- raise_exception("only user and assistant, got " + message.role) }}
    {%- endif %}
    {% if message.hidden is defined %}{% continue %}{% endif %}
    {%- set ns.turns = ns.turns + 1 %}
    [{{ ns.turns }}] {{ message.content | trim }}{{ unk_token }}
    {% generation %}{{ message.content }}
    {% endgeneration %}
    {% if ns.turns == 3 %}{% break %}{% endif %}
{%- endfor %}
{{ eos_token }}"""

TOOLS = """{% if tools %}Tools: {{ tools | tojson(indent=2) }}
{% for tool in tools %}- {{ tool.name }}: {{ tool | tojson }}
{% endfor %}{% endif %}
{% set extra = dict(a=1) %}{{ extra.a }} {{ flavour }} {{ strftime_now("%Y") }} {{ "%03d" % 7 }} {{ "-" * 3 }}
{% for message in messages %}
{{ message.role | upper }}: {{ message.content if message.content is string else message.content | tojson }}
{% endfor %}"""

MESSAGES: list[dict[str, Any]] = [
    {"role": "user", "content": " 안녕 <b>&</b> "},
    {"role": "assistant", "content": "네", "hidden": True},
    {"role": "user", "content": "둘", "name": None},
    {"role": "assistant", "content": "three"},
    {"role": "user", "content": "넷"},
]


def with_template(tokenizer: Tokenizer, template: str) -> Tokenizer:
    return Tokenizer(tokenizer.core, tokenizer.roles, template, "test", "")


@pytest.mark.parametrize("template", [CHATML, TURNS, TOOLS], ids=["chatml", "turns", "tools"])
@pytest.mark.parametrize("prompt", [True, False])
def test_text_equals_that_of_transformers(tokenizer: Tokenizer, folder: Path, template: str, prompt: bool) -> None:
    from transformers import AutoTokenizer

    other = AutoTokenizer.from_pretrained(folder)
    given = {"tools": [{"name": "검색", "q": "<x>"}], "flavour": "mint"} if template is TOOLS else {}
    expected = other.apply_chat_template(
        MESSAGES, chat_template=template, tokenize=False, add_generation_prompt=prompt, **given
    )
    ours = chat.render(with_template(tokenizer, template), MESSAGES, add_generation_prompt=prompt, **given)
    assert ours == expected
    assert "안녕" in ours


def test_a_refusal_of_the_template_reaches_the_user(tokenizer: Tokenizer) -> None:
    with pytest.raises(GenerationError, match="only user and assistant, got tool"):
        chat.render(with_template(tokenizer, TURNS), [{"role": "tool", "content": "x"}])


def test_no_template_is_said(tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match="has no chat template"):
        chat.render(tokenizer, MESSAGES)


def test_a_broken_template_is_named_with_its_line(tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match="line 2"):
        chat.render(with_template(tokenizer, "ok\n{% if %}"), MESSAGES)


def test_too_long_a_template_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match="200001 characters"):
        chat.render(with_template(tokenizer, "x" * 200_001), MESSAGES)


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ dict.__class__.__mro__[1].__subclasses__() }}",
        "{% set n = namespace(__class__=1) %}",
        "{% set n = namespace() %}{% set n._x = 1 %}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='x') }}",
        "{{ 'x' * 1000000000 }}",
        "{{ 1000000000 * [1] }}",
        "{{ 9 ** 99999999 }}",
        "{{ '%999999999d' % 1 }}",
        "{% for i in range(10000000) %}x{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(999) %}{{ 'x' * 900 }}{% endfor %}{% endfor %}",
        "{% include '/etc/passwd' %}",
        "{{ undefined_name.attribute }}",
    ],
)
def test_a_hostile_template_gets_nowhere(tokenizer: Tokenizer, template: str) -> None:
    try:
        text = chat.render(with_template(tokenizer, template), MESSAGES)
    except GenerationError:
        return
    assert text == "", "what the sandbox lets pass must at least say nothing"


def test_objects_never_reach_a_template(tokenizer: Tokenizer) -> None:
    with pytest.raises(GenerationError, match="not JSON"):
        chat.render(with_template(tokenizer, CHATML), [{"role": "user", "content": Path("/")}])

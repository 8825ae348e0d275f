"""What form an answer is asked to have: OpenAI's `response_format`, vLLM's `structured_outputs` and its older
`guided_json`, `guided_regex`, `guided_choice`, `guided_grammar`."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from hanbit.common.errors import GrammarError
from hanbit.engine.structured_outputs import StructuredOutputs
from hanbit.server.frontends.openai.errors import Refusal

Schema = str | dict[str, Any] | bool


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class JsonSchema(Strict):
    """`name`, `description` and `strict` change nothing: a schema is always kept to the letter."""

    name: str = ""
    description: str | None = None
    strict: bool | None = None
    schema_: dict[str, Any] | bool = Field(alias="schema")


class ResponseFormat(Strict):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StructuredFields(Strict):
    """The fields of StructuredOutputs."""

    json_: Schema | None = Field(None, alias="json")
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    disable_any_whitespace: bool = False


class Forms(Strict):
    """At most one of them is given."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredFields | None = None
    guided_json: Schema | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None


def form_field(asked: Forms) -> str | None:
    """The one that is given. Raises Refusal if several are."""
    given = [name for name in Forms.model_fields if getattr(asked, name) is not None]
    if len(given) > 1:
        raise Refusal(f"{given[0]} and {given[1]} both say what form the answer has: give one", given[1])
    return given[0] if given else None


def form_of(asked: Forms) -> StructuredOutputs | None:
    """None for any text. Raises Refusal."""
    field = form_field(asked)
    if field is None:
        return None
    try:
        if asked.response_format is not None:
            return _of_response_format(asked.response_format)
        if asked.structured_outputs is not None:
            given = asked.structured_outputs.model_dump(by_alias=True, exclude_none=True)
            return StructuredOutputs(**given)
        return StructuredOutputs(**{field.removeprefix("guided_"): getattr(asked, field)})
    except GrammarError as problem:
        raise refused(problem, field) from None


def refused(problem: GrammarError, field: str | None) -> Refusal:
    """The engine names its own field; the client wrote another."""
    message = str(problem).replace("structured_outputs.tool_calls", "tools", 1)
    return Refusal(message.replace("structured_outputs", field or "", 1), field, "invalid_value")


def _of_response_format(asked: ResponseFormat) -> StructuredOutputs | None:
    if asked.type == "text":
        return None
    if asked.type == "json_object":
        return StructuredOutputs(json_object=True)
    if asked.json_schema is None:
        raise Refusal("response_format of type json_schema needs json_schema", "response_format", "invalid_value")
    schema = asked.json_schema.schema_
    return StructuredOutputs(json={} if schema is True else schema)  # type: ignore[arg-type]

"""What may be asked for, as pydantic models. Types are strict ("0.5" is no number); ranges that the engine knows are
checked by its SamplingParams, limits on amounts here.

https://platform.openai.com/docs/api-reference/chat/create, .../completions/create and .../embeddings/create; `top_k`,
`min_p`, `repetition_penalty`, `bad_words`, `min_tokens`, `ignore_eos`, `priority`,
`use_beam_search`, `truncate_prompt_tokens`, `normalize` of embeddings and the two token routes are vLLM's,
`top_p_decay`, `top_p_min` and `top_p_reset_ids` FasterTransformer's,
`num_beams` and `early_stopping` transformers', `session_id` and its two are ours.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, FailFast, Field, PlainValidator, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from hanbit.engine.sampling_params import MOST_BAD_WORDS, MOST_CHOICES
from hanbit.server.frontends.openai.forms import Forms, Strict

MOST_STOPS = 16
LONGEST_STOP = 1000
MOST_BIASES = 1024
MOST_TOOLS = 128  # OpenAI's own limit, as the names'
LONGEST_NAME = 64
MOST_INPUTS = 2048  # OpenAI's own limit
_WHOLE = 2**63  # integers of other languages hold no more

Prompt = str | list[int]


def _prompts(value: Any) -> list[Prompt]:
    """A text, texts, token ids or lists of token ids -> prompts."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if all(isinstance(item, str) for item in value) or all(_is_tokens(item) for item in value):
            return value
        if _is_tokens(value):
            return [value]
    raise PydanticCustomError("wrong", "must be a text, a list of texts, token ids, or a list of lists of token ids")


def _is_tokens(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < _WHOLE for item in value)


def _text(value: Any) -> Any:
    """Content in text parts -> one text, a line each."""
    if not isinstance(value, list):
        return value
    for place, part in enumerate(value):
        is_text = isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
        if not is_text:
            kind = part.get("type") if isinstance(part, dict) else part
            raise PydanticCustomError(
                "wrong",
                "part {place} is {kind}: parts of type text with a text are read",
                {"place": place, "kind": f"{kind!r:.40}"},
            )
    return "\n".join(part["text"] for part in value)


def _stops(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _biases(value: Any) -> Any:
    """JSON's keys are texts, token ids are numbers."""
    if not isinstance(value, dict) or not all(key.isascii() and key.isdigit() and len(key) < 19 for key in value):
        raise PydanticCustomError("wrong", "must be an object with token ids as keys")
    return {int(key): bias for key, bias in value.items()}


class CalledFunction(Strict):
    """`arguments`: JSON as text, as the model wrote it."""

    name: Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)]
    arguments: str


class CalledTool(Strict):
    id: str
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None  # of clients that put a stream's deltas together


class Message(Strict):
    """`developer` is what newer clients call the system; `tool` tells what a call, by its id, has brought."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    name: str | None = None
    tool_calls: Annotated[list[CalledTool] | None, Field(max_length=MOST_TOOLS)] = None
    tool_call_id: Annotated[str | None, Field(validate_default=True)] = None
    content: Annotated[str | None, BeforeValidator(_text), Field(validate_default=True)] = None
    refusal: str | None = None  # clients send an answer back as they got it

    @field_validator("tool_calls")
    @classmethod
    def _is_an_assistants(cls, calls: list[CalledTool] | None, others: ValidationInfo) -> list[CalledTool] | None:
        if calls and others.data.get("role", "assistant") != "assistant":
            raise PydanticCustomError("wrong", "only messages of the role assistant have tool_calls")
        return calls

    @field_validator("tool_call_id")
    @classmethod
    def _is_a_tools(cls, id: str | None, others: ValidationInfo) -> str | None:
        if "role" in others.data and (others.data["role"] == "tool") != (id is not None):
            raise PydanticCustomError("wrong", "messages of the role tool have one, and no others")
        return id

    @field_validator("content")
    @classmethod
    def _is_there(cls, content: str | None, others: ValidationInfo) -> str | None:
        if content is None and not others.data.get("tool_calls"):
            raise PydanticCustomError("missing", "is required")
        return content


class Function(Strict):
    """`strict` changes nothing: arguments are always of the schema."""

    name: Annotated[str, Field(min_length=1, max_length=LONGEST_NAME, pattern=r"^[a-zA-Z0-9_.-]+$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Strict):
    type: Literal["function"]
    function: Function


class ChosenFunction(Strict):
    name: str


class ChosenTool(Strict):
    type: Literal["function"]
    function: ChosenFunction


class StreamOptions(Strict):
    include_usage: bool = False
    include_obfuscation: bool = False  # padding of OpenAI's own; there is none here


class Answering(Forms):
    """What both ways of asking share. What is left out is left to the model's makers, then to OpenAI's default."""

    model: str
    temperature: float | None = None
    top_p: float | None = None
    top_p_decay: float = 1
    top_p_min: float = 1e-6
    top_p_reset_ids: Annotated[list[int], FailFast(), Field(max_length=MOST_BIASES)] = []
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float = 0
    frequency_penalty: float = 0
    logit_bias: Annotated[dict[int, float], BeforeValidator(_biases), Field(max_length=MOST_BIASES)] = {}
    bad_words: Annotated[list[str | list[int]], FailFast(), Field(max_length=MOST_BAD_WORDS)] = []
    seed: int | None = Field(None, ge=-_WHOLE, lt=_WHOLE)
    stop: Annotated[
        list[Annotated[str, Field(max_length=LONGEST_STOP)]], BeforeValidator(_stops), Field(max_length=MOST_STOPS)
    ] = []
    min_tokens: int = Field(0, lt=_WHOLE)
    ignore_eos: bool = False
    priority: int = Field(0, ge=-_WHOLE, lt=_WHOLE)
    num_beams: int = 1
    use_beam_search: bool = False
    length_penalty: float = 1
    early_stopping: bool | Literal["never"] = False
    n: int = Field(1, ge=1, le=MOST_CHOICES)
    stream: bool = False
    stream_options: StreamOptions | None = None


class CompletionRequest(Answering):
    prompt: Annotated[list[Prompt], PlainValidator(_prompts)] = [""]
    max_tokens: int = Field(16, lt=_WHOLE)
    best_of: int | None = Field(None, ge=1, le=MOST_CHOICES)
    logprobs: int | None = None
    echo: bool = False
    session_id: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    session_start: bool = False
    session_end: bool = False


class ChatRequest(Answering):
    messages: Annotated[list[Message], FailFast(), Field(min_length=1)]
    max_tokens: int | None = Field(None, lt=_WHOLE)
    max_completion_tokens: int | None = Field(None, lt=_WHOLE)
    logprobs: bool = False
    top_logprobs: int | None = None
    tools: Annotated[list[Tool], FailFast(), Field(max_length=MOST_TOOLS)] = []
    tool_choice: Literal["none", "auto", "required"] | ChosenTool = "auto"
    parallel_tool_calls: bool = True


class EmbeddingRequest(Strict):
    """None: as the model's folder says; truncate_prompt_tokens -1: at what the model reads."""

    model: str
    input: Annotated[list[Prompt], PlainValidator(_prompts)]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    normalize: bool | None = None
    truncate_prompt_tokens: int | None = None


class TokenizeRequest(Strict):
    """A text, or a conversation as the model's chat template puts it."""

    model: str
    prompt: str | None = None
    messages: Annotated[list[Message], FailFast()] = []
    add_special_tokens: bool = True


class DetokenizeRequest(Strict):
    model: str
    tokens: Annotated[list[int], FailFast()]

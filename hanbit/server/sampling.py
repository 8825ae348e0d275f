"""What a request asks of an answer, out of its tensors and parameters. Both go by the names of SamplingParams.

Raises RequestError for what is no parameter, GenerationError for a value outside its range.
"""

import reprlib
from typing import Any, TypeGuard

from hanbit.engine.defaults import merged
from hanbit.engine.sampling_params import SamplingParams
from hanbit.engine.service import Turn
from hanbit.engine.structured_outputs import StructuredOutputs
from hanbit.repository.language import GUIDE, SAMPLING
from hanbit.server.errors import invalid
from hanbit.server.request import InferRequest
from hanbit.server.requested import RESERVED, USUAL_LEVEL, priority_level_of
from hanbit.server.tensors import texts

_NAMES = [field.name for field in SAMPLING]
_STOPS = ("stop", "stop_words")
_RESETS = "top_p_reset_ids"
_BAD_WORDS, _BAD_WORDS_LIST = "bad_words", "bad_words_list"
_GUIDE = [field.name for field in GUIDE]
_FORMS = {"json": "json_object", "json_schema": "json", "regex": "regex", "ebnf_grammar": "grammar"}
_MOST_STOPS = 64
_LONGEST_STOP = 1024  # characters
# FasterTransformer's names of the same, as parameters
_THEIR_NAMES = {
    "max_tokens": "request_output_len",
    "min_tokens": "min_length",
    "top_k": "runtime_top_k",
    "top_p": "runtime_top_p",
    "seed": "random_seed",
    "num_beams": "beam_width",
    "length_penalty": "len_penalty",
}
_KNOWN = (*_NAMES, *_THEIR_NAMES.values(), *_STOPS, _BAD_WORDS, _RESETS, *_GUIDE, "stream")
_LONGEST_NAME = 256  # of a session


def sampling_of(request: InferRequest, defaults: dict[str, Any]) -> SamplingParams:
    """`defaults`: how the model's makers sample or search, for what the request leaves open."""
    for name in request.parameters:
        if name not in (*_KNOWN, *RESERVED) and not name.startswith("triton_"):
            raise invalid(f"unknown parameter {name!r:.80}; known are {', '.join(_KNOWN)}")
    given = {name: value for name in _NAMES if (value := _value(request, name)) is not None}
    given |= {"stop": stops_of(request), _RESETS: _resets_of(request)}
    if words := _bad_words_of(request):
        given["bad_words"] = words
    keywords = merged(defaults, given, in_one_way=turn_of(request) is not None)
    return SamplingParams(**keywords, structured_outputs=_form_of(request))


def stops_of(request: InferRequest) -> list[str]:
    """Texts that end the answer: `stop` and `stop_words` together; an empty one is none, as Triton's users write it."""
    found = [text for name in _STOPS for text in _texts(request, name)]
    if len(found) > _MOST_STOPS or any(len(text) > _LONGEST_STOP for text in found):
        raise invalid(f"at most {_MOST_STOPS} stop texts of at most {_LONGEST_STOP} characters each are taken")
    return [text for text in found if text]


def min_tokens_of(request: InferRequest) -> int:
    """Tokens whose text is no part of a stop text. Raises GenerationError as SamplingParams does."""
    value = _value(request, "min_tokens")
    return SamplingParams(min_tokens=0 if value is None else value).min_tokens


def _bad_words_of(request: InferRequest) -> list[str | list[int]]:
    """Texts of `bad_words`, and FasterTransformer's `bad_words_list`: ids of all words one after another, and under
    them where each word ends, filled up with -1."""
    found: list[str | list[int]] = [text for text in _texts(request, _BAD_WORDS) if text]
    if _BAD_WORDS_LIST in request.inputs:
        ids, ends = request.inputs[_BAD_WORDS_LIST].data.tolist()
        start = 0
        for end in (end for end in ends if end >= 0):
            if not start < end <= len(ids):
                raise invalid(f"{_BAD_WORDS_LIST}: a word from {start} to {end} of {len(ids)} ids; ends go up")
            found.append(ids[start:end])
            start = end
    return found


def _resets_of(request: InferRequest) -> Any:
    """As a tensor any number of ids, -1 for none as FasterTransformer has it; as a parameter one."""
    if _RESETS in request.inputs:
        return [id for id in request.inputs[_RESETS].data.tolist() if id != -1]
    return request.parameters.get(_RESETS, ())


def _form_of(request: InferRequest) -> StructuredOutputs | None:
    """What form the answer has, by TensorRT-LLM's two names."""
    (kind,), (guide,) = ((_texts(request, name) or [""])[:1] for name in _GUIDE)
    if not kind and not guide:
        return None
    if kind not in _FORMS:
        raise invalid(f"{_GUIDE[0]}={kind!r:.60} must be one of {', '.join(_FORMS)}")
    form: dict[str, Any] = {_FORMS[kind]: True if kind == "json" else guide}
    return StructuredOutputs(**form)


def wants_stream(request: InferRequest) -> bool:
    value = _value(request, "stream")
    if not isinstance(value, bool | None):
        raise invalid(f"stream={value!r:.40} must be true or false")
    return bool(value)


def priority_of(request: InferRequest) -> int:
    """The protocol's `priority`: 1 is answered first, larger ones later, 0 or none is a level in the midst; smaller and
    larger than 0 as the engine has them."""
    value = priority_level_of(request)
    return value - USUAL_LEVEL if value else 0


def turn_of(request: InferRequest) -> Turn | None:
    """Of which session this is a turn: the protocol's `sequence_id` (0 and "" are none), `sequence_start` and
    `sequence_end`."""
    name = request.parameters.get("sequence_id", 0)
    if not _is_name(name):
        rule = f"a whole number of 64 bits, or a text of at most {_LONGEST_NAME} characters"
        raise invalid(f"sequence_id={reprlib.repr(name)} must be {rule}")
    is_first, is_last = (request.parameters.get(f"sequence_{end}", False) for end in ("start", "end"))
    for end, value in (("start", is_first), ("end", is_last)):
        if not isinstance(value, bool):
            raise invalid(f"sequence_{end}={reprlib.repr(value)} must be true or false")
        if value and not name:
            raise invalid(f'sequence_{end} belongs to a sequence_id other than 0 and "", and there is none')
    return Turn(name, bool(is_first), bool(is_last)) if name else None


def _is_name(value: Any) -> TypeGuard[int | str]:
    if isinstance(value, str):
        return len(value) <= _LONGEST_NAME
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**64


def _texts(request: InferRequest, name: str) -> list[str]:
    """The tensor's, else the one that is a parameter."""
    if name in request.inputs:
        return texts(request.inputs[name])
    return [str(request.parameters[name])] if name in request.parameters else []


def _value(request: InferRequest, name: str) -> Any:
    """The tensor's single element, else the parameter by either name, else None."""
    if name in request.inputs:
        return request.inputs[name].data.reshape(-1)[0].item()
    theirs = _THEIR_NAMES.get(name, name)
    if theirs != name and name in request.parameters and theirs in request.parameters:
        raise invalid(f"{name} and {theirs} mean the same: give one of them")
    return request.parameters.get(name, request.parameters.get(theirs))

"""How likely tokens were, in the two shapes that OpenAI has for it."""

from collections.abc import Sequence
from typing import Any

from hanbit.engine.output import Logprob
from hanbit.tokenizers.tokenizer import Tokenizer


def of_chat(tokenizer: Tokenizer, logprobs: Sequence[Logprob]) -> dict[str, Any]:
    content = []
    for one in logprobs:
        top = [_token(tokenizer, id, logprob) for id, logprob in one.top]
        content.append(_token(tokenizer, one.token_id, one.logprob) | {"top_logprobs": top})
    return {"content": content, "refusal": None}


def of_completion(
    tokenizer: Tokenizer, logprobs: Sequence[Logprob | None], offset: int, first: Sequence[int] = ()
) -> dict[str, Any]:
    """`offset`: characters of the tokens before these, in the same answer. `first`: the token that None stands for,
    the first of an echoed prompt, which nothing was before."""
    tokens = [tokenizer.decode(first if one is None else [one.token_id]) for one in logprobs]
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token)
    return {
        "tokens": tokens,
        "token_logprobs": [None if one is None else one.logprob for one in logprobs],
        "top_logprobs": [None if one is None else _top(tokenizer, one) for one in logprobs],
        "text_offset": offsets,
    }


def _top(tokenizer: Tokenizer, one: Logprob) -> dict[str, float]:
    return {tokenizer.decode([id]): logprob for id, logprob in one.top}


def _token(tokenizer: Tokenizer, id: int, logprob: float) -> dict[str, Any]:
    """`bytes` is null where a token is a part of a character, of which the text says nothing."""
    text = tokenizer.decode([id])
    return {"token": text, "logprob": logprob, "bytes": None if "\ufffd" in text else list(text.encode())}

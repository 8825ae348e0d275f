"""What `hanbit prepare` was asked for, checked before anything is written: sources, tokenizer, output folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanbit.common import manifest
from hanbit.common.errors import ConfigError, DataError
from hanbit.data import partial
from hanbit.data.megatron import token_dtype
from hanbit.data.samples import KIND
from hanbit.data.sources import Source, find_sources
from hanbit.kernels.library import native
from hanbit.tokenizers import train
from hanbit.tokenizers.load import load
from hanbit.tokenizers.tokenizer import Tokenizer

DEFAULT_VOCABULARY = 8192


@dataclass(frozen=True)
class Request:
    """What was asked for, checked: ready to run, or to be shown by a dry run."""

    sources: list[Source]
    output: Path
    tokenizer: Tokenizer | None  # None: train one
    settings: dict[str, Any]
    done: dict[str, Any] | None  # the manifest, if the folder is whole already

    @property
    def total_bytes(self) -> int:
        return sum(source.bytes for source in self.sources)


def check(
    sources: Sequence[str],
    output: str | Path,
    tokenizer: str | None = None,
    vocabulary: int | None = None,
    *,
    text_key: str = "text",
) -> Request:
    """Everything that can be refused before work starts, refused. Writes nothing."""
    if tokenizer is not None and vocabulary is not None:
        raise ConfigError(
            f"tokenizer={tokenizer} has its own vocabulary, vocabulary={vocabulary} is for training one. Leave one out"
        )
    native()  # a HANBIT_NATIVE that cannot be had is told now
    size = DEFAULT_VOCABULARY if vocabulary is None else vocabulary
    if tokenizer is None:
        train.check_vocabulary(size)
    output = Path(output)
    given = None if tokenizer is None else load(tokenizer)
    done = existing(output)
    found = find_sources(sources, text_key)
    settings = _settings(found, given, size, text_key)
    if done is not None:
        partial.refuse_other_settings(done.get("settings", {}), settings, output)
    return Request(found, output, given, settings, done)


def _settings(sources: list[Source], tokenizer: Tokenizer | None, vocabulary: int, text_key: str) -> dict[str, Any]:
    """What decides the bytes of the result. Paths do not."""
    return {
        "sources": [source.sha256 for source in sources],
        "text_key": text_key,
        "tokenizer": {"trained": vocabulary}
        if tokenizer is None
        else {"sha256": tokenizer.sha256, "end_id": tokenizer.require_end_id()},
        "dtype": token_dtype(vocabulary if tokenizer is None else tokenizer.vocabulary_size).name,
    }


def existing(output: Path) -> dict[str, Any] | None:
    """The manifest of a whole folder, None where there is nothing yet or work to go on with; refuses all else."""
    if not output.exists():
        return None
    if not output.is_dir():
        raise DataError(f"{output} is a file, --output names a folder. Choose another")
    if (output / manifest.NAME).exists():
        found = manifest.read_manifest(output, KIND, DataError)
        try:
            manifest.verify(output, found, DataError)
        except DataError as problem:
            raise DataError(f"{problem}. Remove {output} and prepare again, or restore it from a copy") from None
        return found
    strange = sorted(entry.name for entry in output.iterdir() if entry.name not in (partial.NAME, ".lock"))
    if strange and not (output / partial.NAME).is_dir():
        raise DataError(
            f"{output} holds {', '.join(strange[:3])}{' ...' if len(strange) > 3 else ''} and no {manifest.NAME}: "
            "it was not made by `hanbit prepare`. Choose another --output"
        )
    return None

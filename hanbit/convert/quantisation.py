"""What `--quantize` and its options ask for, checked before anything is read."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanbit.common.errors import ConfigError
from hanbit.common.manifest import sha256_of
from hanbit.quantize.groups import BITS, GROUPS, Scheme


@dataclass(frozen=True)
class Quantisation:
    """text: what perplexity is taken of; None: the texts of this folder."""

    choice: str  # of BITS
    group: int
    is_symmetric: bool
    text: Path | None

    @property
    def scheme(self) -> Scheme:
        return Scheme(BITS[self.choice], self.group, self.is_symmetric)

    def facts(self) -> dict[str, Any]:
        """For hanbit.json: what makes the same folder of the same source."""
        return {"quantize": self.choice, "group": self.group, "symmetric": self.is_symmetric}

    def text_sha256(self) -> str | None:
        return None if self.text is None else sha256_of(self.text)


def asked_for(
    quantize: str | None, group: int | None, symmetric: bool, text: Path | None, keep_blocks: bool
) -> Quantisation | None:
    """None where nothing is to be quantised. Raises ConfigError."""
    if quantize is None:
        for flag, value in {"--group": group, "--symmetric": symmetric or None, "--text": text}.items():
            if value is not None:
                raise ConfigError(f"{flag} {value} goes with --quantize {' or '.join(BITS)}")
        return None
    if quantize not in BITS:
        raise ConfigError(f"--quantize {quantize!r:.80} must be {', '.join(BITS)}")
    if group is not None and group not in GROUPS:
        raise ConfigError(f"--group {group} must be {', '.join(map(str, GROUPS))}")
    if keep_blocks:
        raise ConfigError("--keep-blocks keeps a file's own blocks, --quantize makes new ones. Leave one out")
    if text is not None and not text.is_file():
        raise ConfigError(f"--text {text} is not a file. Name a UTF-8 text")
    if symmetric and BITS[quantize] == 8:
        raise ConfigError("--symmetric is of int4: int8 has no least numbers. Leave it out")
    return Quantisation(quantize, GROUPS[0] if group is None else group, symmetric or BITS[quantize] == 8, text)

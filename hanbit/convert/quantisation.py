"""What `--quantize` and its options ask for, checked before anything is read."""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hanbit.common.errors import ConfigError
from hanbit.common.manifest import sha256_of
from hanbit.convert.calibration import calibration_sources
from hanbit.data.sources import Source
from hanbit.quantize.calibrate import METHODS
from hanbit.quantize.groups import BITS, GROUPS, Scheme


@dataclass(frozen=True)
class Quantisation:
    """text: what perplexity is taken of; None: the texts of this folder. calibration: what gptq and awq look at."""

    choice: str  # of BITS
    method: str  # of METHODS
    group: int
    is_symmetric: bool
    text: Path | None
    calibration: tuple[Source, ...] = ()

    @property
    def scheme(self) -> Scheme:
        return Scheme(BITS[self.choice], self.group, self.is_symmetric)

    def facts(self) -> dict[str, Any]:
        """For hanbit.json: what makes the same folder of the same source."""
        digests = "".join(source.sha256 for source in self.calibration)
        text = {"calibration_sha256": hashlib.sha256(digests.encode()).hexdigest()} if self.calibration else {}
        rounding = {"group": self.group, "symmetric": self.is_symmetric, "method": self.method}
        return {"quantize": self.choice, **rounding, **text}

    def text_sha256(self) -> str | None:
        return None if self.text is None else sha256_of(self.text)


@dataclass(frozen=True)
class Options:
    """As they are named on the command line; None and False are those that were not given."""

    quantize: str | None = None
    group: int | None = None
    symmetric: bool = False
    method: str | None = None
    calibration: str | None = None
    text: Path | None = None


def asked_for(options: Options, keep_blocks: bool) -> Quantisation | None:
    """None where nothing is to be quantised. Raises ConfigError, DataError."""
    choice, group = options.quantize, options.group
    method = METHODS[0] if options.method is None else options.method
    if choice is None:
        _refuse_alone(options)
        return None
    if choice not in BITS:
        raise ConfigError(f"--quantize {choice!r:.80} must be {', '.join(BITS)}")
    if group is not None and group not in GROUPS:
        raise ConfigError(f"--group {group} must be {', '.join(map(str, GROUPS))}")
    if method not in METHODS:
        raise ConfigError(f"--method {method!r:.80} must be {', '.join(METHODS)}")
    if keep_blocks:
        raise ConfigError("--keep-blocks keeps a file's own blocks, --quantize makes new ones. Leave one out")
    if options.symmetric and BITS[choice] == 8:
        raise ConfigError("--symmetric is of int4: int8 has no least numbers. Leave it out")
    if options.calibration is not None and method == METHODS[0]:
        raise ConfigError(f"--calibration goes with --method {' or '.join(METHODS[1:])}; {method} looks at no text")
    if options.text is not None and not options.text.is_file():
        raise ConfigError(f"--text {options.text} is not a file. Name a UTF-8 text")
    is_symmetric = options.symmetric or BITS[choice] == 8
    sources = () if method == METHODS[0] else tuple(calibration_sources(options.calibration))
    return Quantisation(choice, method, GROUPS[0] if group is None else group, is_symmetric, options.text, sources)


def _refuse_alone(options: Options) -> None:
    for name, value in asdict(options).items():
        if value is not None and value is not False:
            shown = "''" if value == "" else value
            raise ConfigError(f"--{name} {shown} goes with --quantize {' or '.join(BITS)}")

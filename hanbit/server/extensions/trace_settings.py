"""What is traced: the trace extension's settings of the server, and of models that have some of their own.

Values travel as texts. null takes a setting back: a model's to the server's, the server's to what it was started with.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hanbit.common.errors import ConfigError
from hanbit.server.errors import RequestError, invalid

OFF = "OFF"
LEVELS = (OFF, "TIMESTAMPS", "TENSORS")
_MOST = 2**31 - 1


@dataclass(frozen=True)
class TraceOptions:
    """`rate`: one of so many requests is traced; `count`: how many at most, -1 without end; `log_frequency`: traces of
    a file `<file>.<number>`, 0: all in one file."""

    levels: tuple[str, ...] = (OFF,)
    rate: int = 1000
    count: int = -1
    log_frequency: int = 0
    file: Path | None = None

    def as_json(self) -> dict[str, Any]:
        """In the extension's names and order."""
        return {
            "trace_level": list(self.levels),
            "trace_rate": str(self.rate),
            "trace_count": str(self.count),
            "log_frequency": str(self.log_frequency),
            "trace_file": str(self.file or ""),
            "trace_mode": "triton",
        }


def parse_trace_config(values: list[str]) -> TraceOptions:
    """`--trace-config`: "triton,file=PATH", "triton,log-frequency=N", "rate=N", "count=N", "level=L", once each but the
    last. Raises ConfigError."""
    found: dict[str, Any] = {}
    levels: list[str] = []
    for value in values:
        mode, comma, setting = value.rpartition(",")
        name, equals, told = setting.partition("=")
        if not equals or (comma and mode != "triton"):
            raise ConfigError(f"--trace-config {value!r:.80} must be SETTING=VALUE or triton,SETTING=VALUE")
        if name == "level":
            levels.append(told)
        elif name == "mode":
            if told != "triton":
                raise ConfigError(f"--trace-config mode={told!r:.40} must be triton: there is no other here")
        elif name == "file" and mode:
            found["file"] = Path(told)
        elif name in ("rate", "count") or (name == "log-frequency" and mode):
            found[name.replace("-", "_")] = told
        else:
            raise ConfigError(
                f"--trace-config {value!r:.80}: known are level, rate, count, mode, triton,file, triton,log-frequency"
            )
    try:
        found |= {name: _number(name, told) for name, told in found.items() if name != "file"}
        if levels:
            found["levels"] = _levels(levels)
    except RequestError as problem:
        raise ConfigError(f"--trace-config: {problem.message}") from None
    file = found.get("file")
    if file is not None and not file.absolute().parent.is_dir():
        raise ConfigError(f"--trace-config triton,file={file}: there is no folder {file.absolute().parent}")
    return TraceOptions(**found)


@dataclass
class TraceSettings:
    """`started`: from the command line; `own`: fields that the server or a model ("" is the server) has otherwise."""

    started: TraceOptions
    own: dict[str, dict[str, Any]] = field(default_factory=dict)

    def of(self, model: str = "") -> TraceOptions:
        found = replace(self.started, **self.own.get("", {}))
        return replace(found, **self.own.get(model, {})) if model else found

    def update(self, model: str, settings: Mapping[str, Any]) -> None:
        """Nothing is changed where one of them is wrong. Raises RequestError."""
        changed = {**self.own.get(model, {})}
        for name, value in settings.items():
            key = _KEYS.get(name)
            if name in ("trace_file", "trace_mode"):
                raise RequestError("unsupported", f"{name} is what the server was started with: see --trace-config")
            if key is None:
                raise invalid(f"there is no setting {name!r:.80}; there are {', '.join(_KEYS)}")
            if value is None:
                changed.pop(key, None)
            else:
                changed[key] = _levels(value) if key == "levels" else _number(key, value)
        self.own[model] = changed
        if not changed:
            del self.own[model]


_KEYS = {"trace_level": "levels", "trace_rate": "rate", "trace_count": "count", "log_frequency": "log_frequency"}


def _levels(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or any(one not in LEVELS for one in value):
        raise invalid(f"trace_level={value!r:.80} must be a list of {', '.join(LEVELS)}")
    if OFF in value and len(set(value)) > 1:
        raise invalid("trace_level OFF stands alone")
    return tuple(dict.fromkeys(value))


def _number(name: str, value: Any) -> int:
    least = -1 if name == "count" else 0
    is_text = isinstance(value, str) and len(value) < 16 and value.removeprefix("-").isascii()
    if not is_text or not value.removeprefix("-").isdigit() or not least <= int(value) <= _MOST:
        raise invalid(f"{name}={value!r:.40} must be a whole number from {least}, as a text")
    return int(value)

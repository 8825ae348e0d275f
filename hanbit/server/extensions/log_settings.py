"""The logging extension: which lines the server writes, and how, told and changed while it runs.

--log-info, --log-warning, --log-error   lines of that kind, or none
--log-verbose N                          from 1 on also the lines for those who look for a fault
--log-format default|ISO8601             lines as they are, or `2026-11-29T15:04:34Z I ...`
--log-file PATH                          there instead of standard error; no client can change it
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hanbit.common.errors import ConfigError
from hanbit.server.errors import RequestError, invalid

FORMATS = ("default", "ISO8601")
_SWITCHES = ("log_info", "log_warning", "log_error")
_MOST_VERBOSE = 2**31 - 1


@dataclass(frozen=True)
class LogOptions:
    """As the server is started with; `file` None: standard error."""

    info: bool = True
    warning: bool = True
    error: bool = True
    verbose: int = 0
    format: str = "default"
    file: Path | None = None

    def check(self) -> None:
        """Raises ConfigError."""
        if self.format not in FORMATS:
            raise ConfigError(f"--log-format {self.format!r:.40} must be {' or '.join(FORMATS)}")
        if not 0 <= self.verbose <= _MOST_VERBOSE:
            raise ConfigError(f"--log-verbose {self.verbose} must be 0 or more")

    def as_json(self) -> dict[str, Any]:
        """In the extension's names and order."""
        return {
            "log_file": str(self.file or ""),
            "log_info": self.info,
            "log_warning": self.warning,
            "log_error": self.error,
            "log_verbose_level": self.verbose,
            "log_format": self.format,
        }


class LogSettings(logging.Filter):
    """What is set now, as a filter of the lines of this package. Ends with `close`."""

    def __init__(self, options: LogOptions) -> None:
        """Raises ConfigError where the file cannot be written."""
        super().__init__()
        self._now = options
        self._logger = logging.getLogger("hanbit")
        self._own = _file_handler(options.file)
        self._handlers = [(one, one.level, one.formatter) for one in self._logger.handlers if _is_stream(one)]
        if self._own is not None:
            for handler, _, _ in self._handlers:
                self._logger.removeHandler(handler)
            self._logger.addHandler(self._own)
        for handler in self._changed():
            handler.addFilter(self)
        self._apply()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.ERROR:
            return self._now.error
        if record.levelno >= logging.WARNING:
            return self._now.warning
        return self._now.info if record.levelno >= logging.INFO else self._now.verbose > 0

    def as_json(self) -> dict[str, Any]:
        return self._now.as_json()

    def update(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """All of them afterwards. Nothing is changed where one of them is wrong. Raises RequestError."""
        if "log_file" in settings:
            raise RequestError("unsupported", "the log's file is what the server was started with: see --log-file")
        changed: dict[str, Any] = {}
        for name, value in settings.items():
            if name in _SWITCHES:
                if not isinstance(value, bool):
                    raise invalid(f"{name}={value!r:.40} must be true or false")
                changed[name.removeprefix("log_")] = value
            elif name == "log_verbose_level":
                if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST_VERBOSE:
                    raise invalid(f"{name}={value!r:.40} must be a whole number from 0")
                changed["verbose"] = value
            elif name == "log_format":
                if value not in FORMATS:
                    raise invalid(f"{name}={value!r:.40} must be {' or '.join(FORMATS)}")
                changed["format"] = value
            else:
                raise invalid(f"there is no setting {name!r:.80}; there are {', '.join(self._now.as_json())}")
        self._now = replace(self._now, **changed)
        self._apply()
        return self.as_json()

    def close(self) -> None:
        """The log is as it was before."""
        for handler in self._changed():
            handler.removeFilter(self)
        for handler, level, formatter in self._handlers:
            handler.setLevel(level)
            handler.setFormatter(formatter)
            if self._own is not None:
                self._logger.addHandler(handler)
        if self._own is not None:
            self._logger.removeHandler(self._own)
            self._own.close()

    def _changed(self) -> list[logging.Handler]:
        return [self._own] if self._own is not None else [handler for handler, _, _ in self._handlers]

    def _apply(self) -> None:
        before = {handler: (level, formatter) for handler, level, formatter in self._handlers}
        for handler in self._changed():
            level, formatter = before.get(handler, (logging.INFO, _Iso()))
            handler.setLevel(logging.DEBUG if self._now.verbose else level)
            handler.setFormatter(_Iso() if self._now.format == "ISO8601" else formatter)


class _Iso(logging.Formatter):
    """One line for each line of the log: a line's end in it is no new line."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
        text = super().format(record).replace("\n", "\\n").replace("\r", "\\r")
        return f"{moment} {record.levelname[0]} {text}"


def _is_stream(handler: logging.Handler) -> bool:
    return isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler)


def _file_handler(path: Path | None) -> logging.FileHandler | None:
    if path is None:
        return None
    try:
        return logging.FileHandler(path, encoding="utf-8")
    except OSError as problem:
        raise ConfigError(f"--log-file {path} cannot be written: {problem.strerror}") from None

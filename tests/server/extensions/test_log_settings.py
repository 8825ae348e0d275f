"""Which lines are written, and how: read back from a file."""

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hanbit.common.errors import ConfigError
from hanbit.server.errors import RequestError
from hanbit.server.extensions.log_settings import LogOptions, LogSettings

log = logging.getLogger("hanbit.test")


@pytest.fixture(autouse=True)
def every_level() -> Iterator[None]:
    logger = logging.getLogger("hanbit")
    before, logger.level = logger.level, logging.DEBUG
    yield
    logger.setLevel(before)


def written(path: Path, **settings: Any) -> list[str]:
    """Lines of a debug, an info, a warning and an error, with these settings."""
    found = LogSettings(LogOptions(file=path))
    try:
        found.update(settings)
        for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
            log.log(level, "%s", logging.getLevelName(level))
    finally:
        found.close()
    return path.read_text().splitlines()


@pytest.mark.parametrize(
    ("settings", "words"),
    [({}, ["INFO", "WARNING", "ERROR"]), ({"log_info": False}, ["WARNING", "ERROR"]),
     ({"log_warning": False, "log_error": False}, ["INFO"]),
     ({"log_verbose_level": 1}, ["DEBUG", "INFO", "WARNING", "ERROR"]),
     ({"log_verbose_level": 1, "log_info": False, "log_warning": False, "log_error": False}, ["DEBUG"])],
)  # fmt: skip
def test_each_kind_of_line_has_its_switch(tmp_path: Path, settings: dict[str, Any], words: list[str]) -> None:
    assert [line.split()[-1] for line in written(tmp_path / "log", **settings)] == words


def test_iso_lines_have_time_and_kind_and_no_line_of_a_strangers(tmp_path: Path) -> None:
    found = LogSettings(LogOptions(file=tmp_path / "log", format="ISO8601"))
    log.warning("a\n2026-01-01T00:00:00Z E all is lost")
    found.close()
    lines = (tmp_path / "log").read_text().splitlines()
    assert len(lines) == 1
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ W a\\n2026.*", lines[0])


def test_afterwards_the_log_is_as_before(tmp_path: Path) -> None:
    handlers = list(logging.getLogger("hanbit").handlers)
    LogSettings(LogOptions(file=tmp_path / "log", verbose=1)).close()
    assert logging.getLogger("hanbit").handlers == handlers


@pytest.mark.parametrize(
    "settings",
    [{"log_info": "x"}, {"log_info": 1}, {"log_verbose_level": -1}, {"log_verbose_level": True},
     {"log_verbose_level": "1"}, {"log_format": "bad"}, {"other": 1}],
)  # fmt: skip
def test_a_wrong_setting_changes_nothing(settings: dict[str, Any]) -> None:
    found = LogSettings(LogOptions())
    try:
        before = found.as_json()
        with pytest.raises(RequestError):
            found.update({"log_error": False, **settings})
        assert found.as_json() == before
    finally:
        found.close()


def test_the_file_is_the_operators(tmp_path: Path) -> None:
    found = LogSettings(LogOptions())
    with pytest.raises(RequestError) as caught:
        found.update({"log_file": str(tmp_path / "x")})
    found.close()
    assert caught.value.kind == "unsupported"
    with pytest.raises(ConfigError, match="--log-file"):
        LogSettings(LogOptions(file=tmp_path / "no" / "log"))
    with pytest.raises(ConfigError, match="--log-format"):
        LogOptions(format="bad").check()

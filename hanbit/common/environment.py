"""Whole numbers that a launcher leaves in the environment: RANK, WORLD_SIZE and the like."""

import os

from hanbit.common.errors import ConfigError


def number_of(name: str, default: int, at_least: int = 0) -> int:
    """The variable's value, `default` where it is not set or empty. Raises ConfigError."""
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    if not text.isdecimal() or int(text) < at_least:
        raise ConfigError(
            f"environment {name}={text[:40]} must be a whole number from {at_least} up. torchrun and `hanbit launch` "
            f"set it; outside of them unset {name}"
        )
    return int(text)

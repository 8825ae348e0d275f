"""What the fields of a request or an engine may be, checked when they are given. No torch."""

from hanbit.common.errors import GenerationError


def is_whole(value: object, lowest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= lowest


def check(name: str, value: object, is_right: bool, rule: str) -> None:
    """Raises GenerationError with the value and the rule."""
    if not is_right:
        raise GenerationError(f"{name}={value!r} must be {rule}")

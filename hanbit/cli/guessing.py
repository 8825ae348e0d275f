"""What the verbs that answer say of guessing tokens ahead (hanbit/engine/speculation.py)."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # loaded inside the function: `hanbit --help` must stay fast
    from hanbit.engine.speculation import Speculation

GUESSED_BY = "Who guesses the next tokens, so that a step may make several: none, prompt_lookup (the text itself)"


def guessing(method: str, num_tokens: int, longest: int, shortest: int) -> "Speculation":
    """Raises ConfigError with the flag, its value and the rule."""
    from hanbit.common.errors import ConfigError, GenerationError
    from hanbit.engine.speculation import Speculation

    try:
        return Speculation(method, num_tokens, longest, shortest)
    except GenerationError as problem:
        name, _, rest = str(problem).partition("=")
        raise ConfigError(f"--{name.replace('_', '-')}={rest}") from None

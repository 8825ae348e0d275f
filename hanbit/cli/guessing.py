"""What the verbs that answer say of guessing tokens ahead (hanbit/engine/speculation.py)."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # loaded inside the function: `hanbit --help` must stay fast
    from hanbit.engine.speculation import Speculation

GUESSED_BY = "Who guesses next tokens, so that a step may make several: none, prompt_lookup (the text itself), draft"


def guessing(
    method: str, num_tokens: int, longest: int, shortest: int, draft_model: str | None, crowd: int | None = None
) -> "Speculation":
    """A draft model alone says the method, too. Raises ConfigError with the flag, its value and the rule."""
    from hanbit.common.errors import ConfigError, GenerationError
    from hanbit.engine.speculation import Speculation

    if draft_model is not None and method == "none":
        method = "draft"
    try:
        return Speculation(method, num_tokens, longest, shortest, draft_model, crowd)
    except GenerationError as problem:
        name, _, rest = str(problem).partition("=")
        name = name.replace("disable_by", "speculative_disable_by")
        raise ConfigError(f"--{name.replace('_', '-')}={rest}") from None

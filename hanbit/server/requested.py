"""What the protocol itself lets a request ask of any model, beside the model's own parameters. Raises RequestError."""

from hanbit.server.errors import invalid
from hanbit.server.request import InferRequest

# Of the protocol, not of the model; headers may be handed on by proxies.
RESERVED = ("sequence_id", "sequence_start", "sequence_end", "priority", "timeout", "headers", "binary_data_output")
USUAL_LEVEL = 100  # of a request that names no priority, where the levels are not bounded


def timeout_seconds_of(request: InferRequest) -> float | None:
    """The protocol's `timeout`: microseconds for the whole answer; none, or 0, is all the time it takes."""
    value = request.parameters.get("timeout", 0)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise invalid(f"timeout={value!r:.40} must be a number of microseconds, a whole one from 0 on")
    return value / 1e6 if value else None


def priority_level_of(request: InferRequest) -> int:
    """The protocol's `priority`: 1 goes first, 0 is none."""
    value = request.parameters.get("priority", 0)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise invalid(
            f"priority={value!r:.40} must be a whole number: 1 for the first, {USUAL_LEVEL} as if none is given"
        )
    return value

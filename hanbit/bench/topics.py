"""Text that every machine has: the documentation topics of Python's standard library, as the benches read them."""

import pydoc_data.topics


def topics() -> str:
    return "\n".join(pydoc_data.topics.topics.values())

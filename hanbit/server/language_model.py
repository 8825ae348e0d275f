"""A served model as chat and completion protocols need it: the engine behind it, and which adapter it speaks with."""

from dataclasses import dataclass

from hanbit.engine.service import Service


@dataclass(frozen=True)
class LanguageModel:
    """`name`: what clients call it. `adapter`: to be given to `service.stream`. `created`: Unix seconds."""

    name: str
    service: Service
    adapter: str | None
    created: int

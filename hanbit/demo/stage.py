"""A stage of the journey, and what came of it."""

from dataclasses import dataclass

from hanbit.common.language import is_korean


@dataclass(frozen=True)
class Stage:
    """`command`: as a user types it, split into words."""

    english: str
    korean: str
    command: tuple[str, ...]

    @property
    def title(self) -> str:
        return self.korean if is_korean() else self.english


@dataclass(frozen=True)
class Outcome:
    """`good`: how good it is, in a few words; `answer`: what a model said, where one was asked."""

    stage: Stage
    seconds: float
    good: str
    answer: str = ""

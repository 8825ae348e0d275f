"""How tokens are guessed ahead of the model, so that one step can make several; checked when it is made. No torch."""

from dataclasses import dataclass
from pathlib import Path

from hanbit.engine.rules import check, is_whole

METHODS = ("none", "prompt_lookup", "draft")
MOST_GUESSED = 31  # with the newest token 32 rows: what a native step takes of one sequence (native_step.py)


@dataclass(frozen=True)
class Speculation:
    """Names are those of vLLM.

    method: none; prompt_lookup guesses what followed the newest few tokens where prompt and answer had them before;
        draft, what a smaller model of the same tokens would say.
    num_speculative_tokens: guessed at a time, at most; fewer where guesses prove wrong.
    prompt_lookup_max, prompt_lookup_min: how many of the newest tokens are looked for, the longest run first.
    draft_model: the smaller model's folder, for draft.
    disable_by_batch_size: nothing is guessed in a step in which so many answers grow, or more; their rows fill the
        processor already. None always guesses.
    """

    method: str = "none"
    num_speculative_tokens: int = 8
    prompt_lookup_max: int = 4
    prompt_lookup_min: int = 2
    draft_model: Path | str | None = None
    disable_by_batch_size: int | None = None

    def __post_init__(self) -> None:
        check("speculation", self.method, self.method in METHODS, f"one of {', '.join(METHODS)}")
        count, shortest, longest = self.num_speculative_tokens, self.prompt_lookup_min, self.prompt_lookup_max
        rule = f"a whole number from 1 to {MOST_GUESSED}"
        check("num_speculative_tokens", count, is_whole(count, 1) and count <= MOST_GUESSED, rule)
        check("prompt_lookup_min", shortest, is_whole(shortest, 1), "a whole number from 1")
        rule = f"a whole number from prompt_lookup_min={shortest} to {_LONGEST_RUN}"
        check("prompt_lookup_max", longest, is_whole(longest, shortest) and longest <= _LONGEST_RUN, rule)
        size = self.disable_by_batch_size
        check("disable_by_batch_size", size, size is None or is_whole(size, 2), "a whole number from 2, or left out")
        rule = "a model's folder for speculation=draft, and left out for another"
        check("draft_model", self.draft_model, (self.draft_model is not None) == (self.method == "draft"), rule)


_LONGEST_RUN = 32  # tokens; every length in between is kept for every place of a text


def speculation_of(value: "Speculation | str") -> Speculation:
    """A method's name alone stands for it with the usual numbers."""
    return value if isinstance(value, Speculation) else Speculation(value)

"""Say how good a model is: held-out questions asked without and with its adapter."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:  # loaded inside the functions: `hanbit --help` must stay fast
    from hanbit.evaluate.instructions import Answered


def command(
    model: Annotated[str, typer.Argument(help="Model folder, or a run folder: runs/demo.")],
    adapter: Annotated[Path | None, typer.Option(help="Adapter folder; the same questions with it, too.")] = None,
    questions: Annotated[
        str | None, typer.Option(help="A .jsonl of conversations, or a built-in set.", show_default="held-out ones")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print every answer as JSON.")] = False,
) -> None:
    """Ask held-out questions of a model, without and with its adapter.

    Counted are right answers, and answers of the shape that the built-in set json-answers teaches.
    """
    from hanbit.engine.llm import LLM
    from hanbit.evaluate.instructions import HELD_OUT, ask, read_questions

    asked = read_questions(questions or HELD_OUT)
    llm = LLM(model)
    if adapter is not None:
        llm.add_adapter("adapter", adapter)
    answers = {"before": ask(llm, asked)}
    if adapter is not None:
        answers["after"] = ask(llm, asked, "adapter")
    if as_json:
        typer.echo(json.dumps({name: [asdict(one) for one in found] for name, found in answers.items()}))
        return
    for before, after in zip(answers["before"], answers.get("after", answers["before"]), strict=True):
        typer.echo(f"{before.question.prompt}\n  {before.text}")
        if adapter is not None:
            typer.echo(f"  {after.text}")
    for name, found in answers.items():
        typer.echo(f"{name}: {_counted(found)}")


def _counted(answers: "list[Answered]") -> str:
    from hanbit.evaluate.instructions import num_right, num_shaped

    return f"{num_shaped(answers)} of {len(answers)} have the shape, {num_right(answers)} are right"

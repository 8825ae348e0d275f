"""Adapt a model by a recipe: LoRA on its linear layers, the base stays as it is."""

import json
from typing import Annotated

import typer


def command(
    recipe: Annotated[str, typer.Argument(help="A file, or family/size of hanbit/recipes.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="section.key=value ...")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Adapt a model by a recipe with a section `tuning`; the result is an adapter folder that peft reads, too.

    Started again, it continues from the newest whole checkpoint of its run folder.
    """
    from hanbit.common.log import rank
    from hanbit.parallel.grid import stop_processes
    from hanbit.train.tune import tune

    try:
        result = tune(recipe, overrides or [])
    finally:
        stop_processes()
    if as_json and rank() == 0:
        facts = {"folder": str(result.folder.path), "adapter": str(result.folder.adapter), "step": result.step}
        typer.echo(json.dumps({**facts, "loss": result.loss, "is_finished": result.is_finished}))
    if not result.is_finished:
        raise typer.Exit(130)

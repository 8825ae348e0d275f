"""Train a model by a recipe: on one process, under torchrun, or through `hanbit launch`."""

import json
from typing import Annotated

import typer


def command(
    recipe: Annotated[str, typer.Argument(help="A file, or family/size of hanbit/recipes.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="section.key=value ...")] = None,
    dry_run: Annotated[bool, typer.Option(help="Check everything, say what would be done, start nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train a model by a recipe: on one process, under torchrun, or through `hanbit launch`.

    Started again, it continues from the newest whole checkpoint of its run folder.
    """
    if dry_run:
        _look(recipe, overrides or [], as_json)
    else:
        _train(recipe, overrides or [], as_json)


def _train(recipe: str, overrides: list[str], as_json: bool) -> None:
    from hanbit.common.log import rank
    from hanbit.parallel.grid import stop_processes
    from hanbit.train.run import train

    try:
        result = train(recipe, overrides)
    finally:
        stop_processes()
    if as_json and rank() == 0:
        facts = {"folder": str(result.folder.path), "step": result.step, "loss": result.loss}
        typer.echo(json.dumps({**facts, "is_finished": result.is_finished}))
    if not result.is_finished:
        raise typer.Exit(130)


def _look(recipe: str, overrides: list[str], as_json: bool) -> None:
    from hanbit.common.log import rank
    from hanbit.train.dry_run import dry_run
    from hanbit.train.dry_run_text import told

    found = dry_run(recipe, overrides)
    if rank() == 0:
        typer.echo(told(found, as_json))

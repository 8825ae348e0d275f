"""Adapt a model by a recipe: LoRA on its linear layers, the base stays as it is."""

import json
from typing import Annotated

import typer


def command(
    recipe: Annotated[str, typer.Argument(help="A file, or family/size of hanbit/recipes.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="section.key=value ...")] = None,
    dry_run: Annotated[bool, typer.Option(help="Check everything, say what would be done, start nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Adapt a model by a recipe with a section `tuning`; the result is an adapter folder that peft reads, too.

    Started again, it continues from the newest whole checkpoint of its run folder.
    """
    if dry_run:
        _look(recipe, overrides or [], as_json)
    else:
        _tune(recipe, overrides or [], as_json)


def _tune(recipe: str, overrides: list[str], as_json: bool) -> None:
    from hanbit.common.log import rank
    from hanbit.parallel.grid import stop_processes
    from hanbit.train.tune import tune

    try:
        result = tune(recipe, overrides)
    finally:
        stop_processes()
    if as_json and rank() == 0:
        facts = {"folder": str(result.folder.path), "adapter": str(result.folder.adapter), "step": result.step}
        typer.echo(json.dumps({**facts, "loss": result.loss, "is_finished": result.is_finished}))
    if not result.is_finished:
        raise typer.Exit(130)


def _look(recipe: str, overrides: list[str], as_json: bool) -> None:
    from hanbit.common.log import rank
    from hanbit.train.dry_run import dry_run_of
    from hanbit.train.dry_run_text import told
    from hanbit.train.tune import load_tuning

    found = dry_run_of(load_tuning(recipe, overrides))
    if rank() == 0:
        typer.echo(told(found, as_json))

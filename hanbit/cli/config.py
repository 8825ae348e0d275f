"""Look at a recipe without starting anything."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:  # loaded inside the functions: `hanbit --help` must stay fast
    from hanbit.config.load import Loaded
    from hanbit.config.recipe import Recipe
    from hanbit.config.resolve import Resolved

app = typer.Typer(no_args_is_help=True, help="Look at a recipe: its keys, its values, where they come from.")


@app.command()
def schema() -> None:
    """Print the JSON schema of recipe files, for editors."""
    from hanbit.config.schema import recipe_schema

    typer.echo(json.dumps(recipe_schema(), indent=2, ensure_ascii=False))


@app.command(context_settings={"ignore_unknown_options": True})
def show(
    recipe: Annotated[str, typer.Argument(help="A file, or family/size of hanbit/recipes.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="section.key=value ...")] = None,
    origin: Annotated[bool, typer.Option("--origin", help="Say where every value comes from, and why.")] = False,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Resolve for this many.", show_default="as few as the recipe needs")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print key, value, origin and reason as JSON.")] = False,
) -> None:
    """Print a recipe as it would run, every `auto` filled; without options, a YAML file that runs the same."""
    from hanbit.common.environment import number_of
    from hanbit.config.checks import misfits, refuse
    from hanbit.config.load import load_recipe
    from hanbit.config.resolve import expected_processes
    from hanbit.config.write import to_yaml

    loaded = load_recipe(recipe, overrides or [], model_of=_model_of)
    vocabulary = _vocabulary(loaded.recipe)
    count = processes or number_of(
        "WORLD_SIZE", expected_processes(loaded.recipe), at_least=1
    )  # torchrun's, if we are under it
    resolved = _filled(loaded, count, vocabulary)
    rows = _rows(loaded, resolved)
    if as_json:
        typer.echo(json.dumps(rows, ensure_ascii=False))
    elif origin:
        _show_table(rows)
    else:
        typer.echo(to_yaml(resolved.recipe), nl=False)
    refuse(misfits(resolved.recipe, count, vocabulary), loaded.origins)


@app.command(hidden=True)
def document(page: Annotated[Path, typer.Argument(help="Usually docs/recipes.md.")]) -> None:
    """Write the tables of all keys into a page, between its two marks."""
    from hanbit.common.atomic import write_text
    from hanbit.config.document import with_tables

    write_text(page, with_tables(page.read_text(encoding="utf-8")))


def _model_of(folder: str) -> dict[str, Any]:
    """The shape of the model that a recipe tunes; torch is loaded for such a recipe only."""
    from hanbit.train.adapter import model_of

    return model_of(folder)


def _vocabulary(recipe: "Recipe") -> int | None:
    """The size of the tokenizer that training would find; None while there is none."""
    from hanbit.tokenizers.load import load
    from hanbit.train.data import tokenizer_folder

    folder = tokenizer_folder(recipe)
    return None if folder is None else load(folder).vocabulary_size


def _filled(loaded: "Loaded", processes: int, vocabulary: int | None) -> "Resolved":
    """Unlike a run, a look does not need the tokenizer: model.vocabulary stays `auto` until there is one."""
    from hanbit.config.checks import refuse, unfillable
    from hanbit.config.resolve import fill

    problems = [one for one in unfillable(loaded.recipe, vocabulary) if one.key != "model.vocabulary"]
    refuse(problems, loaded.origins)
    return fill(loaded.recipe, processes, vocabulary)


def _rows(loaded: "Loaded", resolved: "Resolved") -> list[dict[str, Any]]:
    """A row for every key. `origin`: a place, or "default"; `reason`: why an `auto` became this value."""
    reasons = {decision.key: decision.reason for decision in resolved.decisions}
    rows = []
    for key, value in _flat(resolved.recipe.model_dump(mode="json"), ""):
        row = {"key": key, "value": value, "origin": loaded.origins.get(key, "default")}
        rows.append({**row, "reason": reasons[key]} if key in reasons else row)
    return rows


def _flat(section: dict[str, Any], prefix: str) -> list[tuple[str, Any]]:
    found = []
    for name, value in section.items():
        found += _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [(f"{prefix}{name}", value)]
    return found


def _show_table(rows: list[dict[str, Any]]) -> None:
    from hanbit.config.explain import shown

    cells = [(row["key"], shown(row["value"]), _whence(row)) for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in (0, 1)]
    for key, value, whence in cells:
        typer.echo(f"{key:<{widths[0]}}  {value:<{widths[1]}}  {whence}")


def _whence(row: dict[str, Any]) -> str:
    return f"{row['origin']}, auto: {row['reason']}" if "reason" in row else str(row["origin"])

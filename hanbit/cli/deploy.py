"""Write a model folder into a Triton model repository: tokenize -> model -> detokenize, and an ensemble of them."""

from pathlib import Path
from typing import Annotated

import typer

_PACKAGE = "package:"


def command(
    model: Annotated[
        str,
        typer.Argument(
            help="Model folder, run folder (runs/demo), a hub's org/name[@revision], or package:NAME (a file in an "
            "installed package, converted once)."
        ),
    ],
    name: Annotated[str, typer.Argument(help="What clients call it.")],
    model_repository: Annotated[Path, typer.Option(help="Folder of models; made if it is not there.")],
    adapter: Annotated[
        list[str] | None, typer.Option(help="NAME=FOLDER of a LoRA adapter, a model beside it; may be given again.")
    ] = None,
    chat_template: Annotated[
        str,
        typer.Option(help="auto: a text is a user's message if there is a chat template; none: it is continued."),
    ] = "auto",
) -> None:
    """Write a model folder into a Triton model repository: tokenize -> model -> detokenize, and an ensemble of them."""
    from hanbit.cli.serve import pairs
    from hanbit.common.errors import ConfigError
    from hanbit.formats.hub import folder_of
    from hanbit.repository.deploy import deploy

    if chat_template not in ("auto", "none"):
        raise ConfigError(f"--chat-template {chat_template!r} must be auto or none")
    adapters = pairs("--adapter", adapter)
    folder = _converted(model) if model.startswith(_PACKAGE) else folder_of(model)
    done = deploy(folder, name, model_repository, adapters, chat_template)
    typer.echo(f"{', '.join(done.names)} in {done.repository}; serve with")
    typer.echo(f"  hanbit serve --model-repository {done.repository}")


def _converted(source: str) -> Path:
    """The model folder of a packaged file in Hanbit's home; made and proven the first time."""
    from hanbit.common.home import home
    from hanbit.convert.convert import convert

    made = convert(source, home() / "models" / source.removeprefix(_PACKAGE).replace("/", "-"))
    typer.echo(f"{source} is {made.folder}" + ("" if made.was_there else f", made in {made.seconds:.1f} s and proven"))
    return made.folder

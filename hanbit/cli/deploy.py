"""Write a model folder into a Triton model repository: tokenize -> model -> detokenize, and an ensemble of them."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    model: Annotated[str, typer.Argument(help="Model folder, or a run folder: runs/demo.")],
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
    from hanbit.repository.deploy import deploy

    if chat_template not in ("auto", "none"):
        raise ConfigError(f"--chat-template {chat_template!r} must be auto or none")
    done = deploy(model, name, model_repository, pairs("--adapter", adapter), chat_template)
    typer.echo(f"{', '.join(done.names)} in {done.repository}; serve with")
    typer.echo(f"  hanbit serve --model-repository {done.repository}")

"""Start the same command as many processes: on this machine, or on several by address."""

import os
import time
from pathlib import Path
from typing import Annotated

import typer

CONTEXT = {"ignore_unknown_options": True, "allow_interspersed_args": False}


def command(
    arguments: Annotated[list[str], typer.Argument(help="Verb and its arguments, for instance: train demo")],
    cluster: Annotated[str, typer.Option(help="Where: local.")] = "local",
    processes: Annotated[int, typer.Option(help="Processes on this node.")] = 1,
    nodes: Annotated[int, typer.Option(help="Nodes that take part.")] = 1,
    node_rank: Annotated[int, typer.Option(help="Which of them this is, from 0.")] = 0,
    address: Annotated[str | None, typer.Option(help="HOST:PORT of node 0; needed for several nodes.")] = None,
    max_restarts: Annotated[int, typer.Option(help="How often a failed group is started again.")] = 0,
    log_folder: Annotated[
        Path | None,
        typer.Option(help="Where each process's output goes.", show_default="runs/.launch/<time>-<process>"),
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Only print the command.")] = False,
) -> None:
    """Start the same command as many processes: on this machine, or on several by address."""
    from hanbit.common.errors import ConfigError
    from hanbit.launch.job import Job
    from hanbit.launch.local import run

    if cluster != "local":
        raise ConfigError(f"--cluster {cluster!r} is not built yet; use local, on every node by hand with --address")
    folder = log_folder or Path("runs/.launch") / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    job = Job(tuple(arguments), processes, folder, nodes, node_rank, address, max_restarts)
    if dry_run:
        typer.echo(job.as_shell_line())
        return
    code = run(job)
    if code:
        raise typer.Exit(code)

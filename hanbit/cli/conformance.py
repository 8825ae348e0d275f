"""Ask a server of KServe v2 what the protocol and Triton's extensions say of it: `hanbit bench conformance`."""

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:  # loaded inside the functions: `hanbit --help` must stay fast
    from hanbit.bench.servers import Addresses


def command(
    http: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Of a server that has the suite's models.")
    ] = None,
    grpc: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Its other protocol.")] = None,
    peer: Annotated[str | None, typer.Option(help="triton: the real one, beside ours.", show_default="no peer")] = None,
    peer_path: Annotated[Path | None, typer.Option(help="Environment that has nvidia-pytriton.")] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Checks whose id begins so; may be given again.", show_default="all")
    ] = None,
    write_repository: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the suite's models there, and end.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Does a server keep to KServe v2 and Triton's extensions? Without --http hanbit's own is started and asked."""
    from hanbit.bench.conformance.report import is_good, line_of, table
    from hanbit.bench.conformance.repository import write_repository as write
    from hanbit.bench.conformance.run import run
    from hanbit.bench.conformance.server import Server

    if write_repository is not None:
        typer.echo("\n".join(write(write_repository)))
        return
    _check(http, grpc, peer, peer_path)
    runs = {}
    for name in ("hanbit", "triton") if peer else ("hanbit",):
        with _server(name, http, grpc, peer_path) as addresses:
            server = Server(addresses.http, addresses.grpc)
            called = name if http is None else server.name()
            runs[called] = run(server, only or (), lambda row: typer.echo(line_of(row), err=True))
    if as_json:
        typer.echo(json.dumps({name: [row.as_dict() for row in rows] for name, rows in runs.items()}))
    else:
        typer.echo(table(runs))
    if not all(is_good(name, rows) for name, rows in runs.items()):
        raise typer.Exit(1)


def _check(http: str | None, grpc: str | None, peer: str | None, peer_path: Path | None) -> None:
    from hanbit.common.errors import ConfigError

    if (http is None) != (grpc is None):
        raise ConfigError("--http and --grpc belong to one server: give both, or none to start hanbit's own")
    if peer not in (None, "triton"):
        raise ConfigError(f"--peer {peer!r:.80} must be triton")
    if (peer is None) != (peer_path is None):
        raise ConfigError("--peer triton and --peer-path ENVIRONMENT go together")
    if peer is not None and http is not None:
        raise ConfigError("--peer runs beside hanbit's own server; leave out --http, or the peer")


@contextlib.contextmanager
def _server(name: str, http: str | None, grpc: str | None, peer_path: Path | None) -> "Iterator[Addresses]":
    """The one that was named, or one that lives as long as the block."""
    from hanbit.bench.conformance import own
    from hanbit.bench.conformance.repository import write_repository as write
    from hanbit.bench.servers import Addresses
    from hanbit.bench.triton import Triton

    if http is not None and grpc is not None:
        yield Addresses(http, grpc)
        return
    with tempfile.TemporaryDirectory(prefix="hanbit-conformance-") as folder:
        repository = Path(folder) / "models"
        write(repository)
        serving = own.serving if name == "hanbit" else Triton(peer_path or Path()).serving
        with serving(repository) as addresses:
            yield addresses

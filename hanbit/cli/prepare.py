"""Turn text into a tokenizer and token files: `hanbit prepare SOURCE... --output FOLDER`."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:  # loaded inside the functions: `hanbit --help` must stay fast
    from hanbit.data.prepare import Prepared, Progress
    from hanbit.data.request import Request


def command(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help=".txt, .jsonl and .parquet files (.gz too), folders of them, or python-docs, korean-law.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the token files and the tokenizer.")],
    tokenizer: Annotated[
        str | None,
        typer.Option(help="Hugging Face folder or tokenizer.json; left out: one is trained on the sources."),
    ] = None,
    vocabulary: Annotated[
        int | None, typer.Option(help="Tokens of the tokenizer to train.", show_default="8192")
    ] = None,
    text_key: Annotated[str, typer.Option(help="JSON key or Parquet column that holds the text.")] = "text",
    workers: Annotated[
        int | None, typer.Option(help="Encoding threads.", show_default="one per core, at most 8")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Turn text into token files that `hanbit train` reads (Megatron's .bin/.idx).

    Started again after a kill, it goes on where it was; a folder that is whole is left as it is.
    """
    from hanbit.data.prepare import prepare
    from hanbit.data.request import check

    if dry_run:
        _show_request(check(sources, output, tokenizer, vocabulary, text_key=text_key), as_json)
        return
    with _Shown(quiet=as_json) as show:
        result = prepare(
            sources,
            output,
            tokenizer,
            vocabulary,
            workers=_default_workers() if workers is None else workers,
            text_key=text_key,
            progress=show,
        )
    _show_result(result, vocabulary, tokenizer is None, as_json)


def _default_workers() -> int:
    """Copying ids holds Python's lock for a tenth of the work, so more than eight threads would only wait for it."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, usable)


def _show_request(request: "Request", as_json: bool) -> None:
    from hanbit.common.units import readable_bytes

    facts = {
        "output": str(request.output),
        "is_done": request.done is not None,
        "sources": [{"name": source.name, "bytes": source.bytes} for source in request.sources],
        "settings": request.settings,
    }
    if as_json:
        typer.echo(json.dumps(facts, ensure_ascii=False))
        return
    for source in request.sources:
        typer.echo(f"{readable_bytes(source.bytes):>10}  {source.name}")
    chosen = request.settings["tokenizer"]
    what = f"train one of {chosen['trained']} tokens" if "trained" in chosen else f"use {request.tokenizer.source}"  # type: ignore[union-attr]
    there = (
        "is whole already: nothing to do" if request.done is not None else "would be made (dry run: nothing written)"
    )
    typer.echo(f"tokenizer: {what}\n{request.output} {there}")


def _show_result(result: "Prepared", vocabulary: int | None, is_trained: bool, as_json: bool) -> None:
    from hanbit.common.units import readable_count, readable_seconds
    from hanbit.data.request import DEFAULT_VOCABULARY

    speed = result.new_tokens / result.seconds
    if as_json:
        facts = {
            "folder": str(result.folder),
            "tokens": result.tokens,
            "documents": result.documents,
            "left_out": result.left_out,
            "vocabulary_size": result.vocabulary_size,
            "new_tokens": result.new_tokens,
            "seconds": round(result.seconds, 3),
            "tokens_per_second": round(speed),
        }
        typer.echo(json.dumps(facts, ensure_ascii=False))
        return
    asked = vocabulary or DEFAULT_VOCABULARY
    if is_trained and result.vocabulary_size < asked:
        typer.echo(f"tokenizer: {result.vocabulary_size} of {asked} tokens; the text has no more pairs that repeat")
    if result.new_tokens == 0:
        typer.echo(f"{result.folder} is whole already: nothing to do ({readable_count(result.tokens)} tokens)")
        return
    left_out = f" ({result.left_out} blank or null left out)" if result.left_out else ""
    typer.echo(
        f"{result.folder}: {readable_count(result.tokens)} tokens of {result.documents} documents{left_out}, "
        f"vocabulary {result.vocabulary_size}, in {readable_seconds(result.seconds)} "
        f"({readable_count(speed)} tokens/s)\n"
        f"  tokens.bin  tokens.idx  tokenizer/  hanbit.json"
    )


class _Shown:
    """Progress on stderr: a bar that moves on a terminal, a line every ten seconds elsewhere."""

    def __init__(self, quiet: bool) -> None:
        self._show: Callable[[Progress], None] = _nothing
        self._bar: Any = None
        self._next_line = 10.0
        if not quiet:
            self._show = self._move_bar if sys.stderr.isatty() else self._write_line

    def __enter__(self) -> Callable[["Progress"], None]:
        if self._show == self._move_bar:
            from rich.console import Console
            from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = [TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()]
            self._bar = Bar(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task("reading", total=None)
        return self._show

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _move_bar(self, progress: "Progress") -> None:
        self._bar.update(
            self._task, total=progress.total_bytes, completed=progress.done_bytes, description=_described(progress)
        )

    def _write_line(self, progress: "Progress") -> None:
        if progress.seconds >= self._next_line:
            self._next_line = progress.seconds + 10.0
            share = progress.done_bytes / max(1, progress.total_bytes)
            typer.echo(f"{share:6.1%}  {_described(progress)}", err=True)


def _nothing(progress: "Progress") -> None:
    pass


def _described(progress: "Progress") -> str:
    from hanbit.common.units import readable_count

    if progress.stage == "tokenizer":
        return "training the tokenizer"
    speed = progress.tokens / max(progress.seconds, 1e-9)
    return f"{readable_count(progress.tokens)} tokens, {readable_count(speed)} tokens/s"

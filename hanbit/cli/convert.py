"""Make a model folder of another format: a GGUF file, a packaged one, a hub's model; quantise it on the way."""

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:  # loaded inside the functions: `hanbit --help` must stay fast
    from hanbit.convert.convert import Converted


def command(
    source: Annotated[
        str,
        typer.Argument(
            help="A .gguf file, a model folder, package:NAME (a file in an installed package), or org/name."
        ),
    ],
    target: Annotated[Path, typer.Argument(help="Model folder to make.")],
    to: Annotated[str, typer.Option(help="Format of the target: hf, Hugging Face's layout.")] = "hf",
    dtype: Annotated[
        str, typer.Option(help="float32, bfloat16, float16; auto: float32 of quantised numbers, else a folder's own.")
    ] = "auto",
    keep_blocks: Annotated[
        bool, typer.Option("--keep-blocks", help="Also keep the quantised blocks as they are (model.blocks).")
    ] = False,
    extend_vocabulary: Annotated[
        str | None,
        typer.Option(metavar="CORPUS", help="Add tokens learnt from this text, to a model folder."),
    ] = None,
    new_tokens: Annotated[int | None, typer.Option(help="How many at most.", show_default="8192")] = None,
    quantize: Annotated[
        str | None, typer.Option(metavar="int4|int8", help="Round the matrices to so many bits.", show_default="no")
    ] = None,
    group: Annotated[
        int | None, typer.Option(help="Numbers that share a scale: 32, 64, 128.", show_default="32")
    ] = None,
    symmetric: Annotated[
        bool, typer.Option("--symmetric", help="int4 without least numbers: 4.5 bits in memory, not 5.")
    ] = False,
    method: Annotated[
        str | None,
        typer.Option(metavar="rtn|gptq|awq", help="To nearest, or looking at a text.", show_default="rtn"),
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(metavar="CORPUS", help="That text, as prepare reads it.", show_default="built-in corpora"),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(help="UTF-8 file; perplexity before and after.", show_default="English and Korean of its own"),
    ] = None,
    no_proof: Annotated[
        bool, typer.Option("--no-proof", help="Do not read both again and compare tensors and logits.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Make a model folder of another format; the proof compares every tensor, then logits.

    Asked for what is there and whole, it does nothing.
    """
    from hanbit.convert.convert import convert

    progress = None if as_json else _Lines()
    made = convert(
        source,
        target,
        to=to,
        dtype=dtype,
        keep_blocks=keep_blocks,
        proof=not no_proof,
        extend_vocabulary=extend_vocabulary,
        new_tokens=new_tokens,
        quantize=quantize,
        group=group,
        symmetric=symmetric,
        method=method,
        calibration=calibration,
        text=text,
        progress=progress,
    )
    if as_json:
        typer.echo(json.dumps({**asdict(made), "folder": str(made.folder)}, ensure_ascii=False))
    else:
        _show(made)


def model_folder(model: str) -> str:
    """What the engine reads: of a GGUF file or a packaged one the folder that is kept for it, said when it is made;
    anything else as it is."""
    from hanbit.convert.kept import is_file_source, kept_folder

    if not is_file_source(model):
        return model
    lines = _Lines()
    folder = kept_folder(model, lines)
    if lines.has_spoken:
        typer.echo(f"{model} is kept as {folder}", file=sys.stderr)
    return str(folder)


def _show(made: "Converted") -> None:
    from hanbit.common.units import readable_bytes

    size = readable_bytes(sum(path.stat().st_size for path in made.folder.iterdir()))
    typer.echo(f"{made.source}: {made.described}")
    if made.was_there:
        typer.echo(f"{made.folder} is whole already: nothing to write ({size}, {made.dtype})")
    else:
        typer.echo(f"{made.folder}: {size} of {made.dtype}, in {made.seconds:.1f} s without the proof")
    if made.proof is None:
        typer.echo("not proven")
        return
    took = f" in {made.proof_seconds:.1f} s" if made.proof_seconds else ", earlier"
    if "in_blocks" in made.proof:
        _show_quantised(made.proof, took)
        return
    typer.echo(
        f"proven{took}: {made.proof['tensors']} tensors equal, {made.proof.get('compared', 'logits')} over "
        f"{made.proof['logit_tokens']} tokens differ "
        f"by at most {made.proof['logits_difference']:.1e} (the largest is {made.proof['largest_logit']:.1f})"
    )


def _show_quantised(proof: dict[str, Any], took: str) -> None:
    typer.echo(
        f"proven{took}: {proof['in_blocks']} matrices are what their blocks say; logits over {proof['logit_tokens']} "
        f"tokens are {proof['logits_difference']:.1%} of their size from the source's"
    )
    for text, before in proof["perplexity_before"].items():
        after = proof["perplexity_after"][text]
        typer.echo(f"perplexity, {text}: {before:.3f} before, {after:.3f} after ({after / before - 1:+.2%})")


class _Lines:
    """Progress on stderr: one line a stage, where a stage takes longer than two seconds one every two seconds."""

    def __init__(self) -> None:
        self._stage, self._next = "", 0.0

    @property
    def has_spoken(self) -> bool:
        return bool(self._stage)

    def __call__(self, stage: str, share: float) -> None:
        now = time.monotonic()
        if stage == self._stage and now < self._next:
            return
        shown = "" if stage != self._stage else f" {share:.0%}"
        self._stage, self._next = stage, now + 2.0
        typer.echo(f"{stage}{shown}", file=sys.stderr)

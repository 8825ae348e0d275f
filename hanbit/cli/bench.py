"""Measure and prove: parallel training against one process, speed against other tools."""

import json
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, no_args_is_help=True)


@app.callback()
def bench() -> None:
    """Measure and prove: parallel training against one process, speed against other tools."""


@app.command()
def exactness(
    processes: Annotated[int, typer.Option(help="Largest group of processes to try: 2, 4 or 8.")] = 8,
    compiled: Annotated[bool, typer.Option(help="Also torch.compile (minutes).")] = False,
    without: Annotated[bool, typer.Option(help="Also leave out each collective once.")] = True,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Every parallel layout against one process: losses, gradients, and what happens without each collective."""
    from hanbit.bench.exactness import line_of, prove, table
    from hanbit.bench.exactness_cases import CASES, COMPILED_CASES
    from hanbit.parallel.collectives import Purpose

    cases = [case for case in (*CASES, *(COMPILED_CASES if compiled else ())) if case.processes <= processes]
    rows = prove(cases, tuple(Purpose) if without else (), lambda row: typer.echo(line_of(row), err=True))
    typer.echo(json.dumps([row.as_dict() for row in rows]) if as_json else table(rows))
    if not all(row.is_good for row in rows):
        raise typer.Exit(1)


@app.command()
def memory(
    processes: Annotated[int, typer.Option(help="Largest group of processes to try: 1, 2, 4 or 8.")] = 8,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """The bytes that a dry run foretells beside those of tensors alive in real processes."""
    from hanbit.bench.memory import CASES, compare, line_of, table

    cases = [case for case in CASES if case.processes <= processes]
    rows = compare(cases, lambda row: typer.echo(line_of(row), err=True))
    typer.echo(json.dumps([row.as_dict() for row in rows]) if as_json else table(rows))
    if not all(row.is_good for row in rows):
        raise typer.Exit(1)


@app.command()
def kills(
    count: Annotated[int, typer.Option(help="How many kills.")] = 30,
    seed: Annotated[int, typer.Option(help="Of the random moments.")] = 0,
) -> None:
    """kill -9 a run of 2 tensor x 2 pipeline processes at random moments; its end must be bitwise the same."""
    from hanbit.bench.kills import prove

    with tempfile.TemporaryDirectory() as folder:
        outcome = prove(count, Path(folder), seed, say=lambda text: typer.echo(text, err=True))
    typer.echo(f"{outcome.kills} kills, {outcome.runs} runs resumed to their end, {outcome.equal} bitwise equal")
    if outcome.equal != outcome.runs:
        raise typer.Exit(1)


@app.command()
def demo_kills(
    count: Annotated[int, typer.Option(help="How many kills.")] = 20,
    seed: Annotated[int, typer.Option(help="Of the random moments.")] = 0,
    shortest: Annotated[float, typer.Option(help="Seconds from a start to its kill, at least.")] = 5.0,
    longest: Annotated[float, typer.Option(help="And at most.")] = 150.0,
) -> None:
    """End the demo at random moments by SIGKILL, SIGTERM, Ctrl-C, itself or its make; then let it run through twice."""
    from hanbit.bench.demo_kills import prove

    with tempfile.TemporaryDirectory() as folder:
        outcome = prove(count, Path(folder), seed, shortest, longest, typer.echo)
    clean = sum(kill.is_clean for kill in outcome.kills)
    typer.echo(f"{len(outcome.kills)} kills, {clean} clean; exit codes afterwards {[run.code for run in outcome.runs]}")
    if not outcome.is_good:
        raise typer.Exit(1)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="Recipe of one process.")] = "llama/60m",
    overrides: Annotated[list[str] | None, typer.Argument(help="section.key=value ...")] = None,
    peer_python: Annotated[str, typer.Option(help="Python that has transformers and accelerate.")] = sys.executable,
    peer: Annotated[Path, typer.Option(help="The Trainer's script.")] = Path("benchmarks/peers/hf_trainer.py"),
    rounds: Annotated[int, typer.Option(help="Turns of each contestant.")] = 7,
    steps: Annotated[int, typer.Option(help="Steps in a turn.")] = 1,
    compiled: Annotated[bool, typer.Option(help="All with torch.compile.")] = False,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Seconds per training step beside a bare PyTorch loop and the Hugging Face Trainer, taking turns."""
    from hanbit.bench.train import Plan, measure, table

    plan = Plan(recipe, peer, peer_python, rounds=rounds, steps=steps)
    contestants, tokens = measure(plan, compiled, overrides or [])
    rows = table(contestants, tokens)
    if as_json:
        typer.echo(json.dumps(rows))
        return
    for row in rows:
        typer.echo(
            f"{row['name']:10} {row['step_seconds']:8.3f} s/step {row['tokens_per_second']:9.1f} tok/s   "
            f"hanbit is {row['hanbit_over_it']:.3f} x as fast ({row['lowest']:.3f} to {row['highest']:.3f})"
        )


@app.command()
def generate(
    model: Annotated[Path, typer.Argument(help="Model folder: models/smollm2.")],
    peer_python: Annotated[str, typer.Option(help="Python that has transformers.")] = sys.executable,
    peer: Annotated[Path, typer.Option(help="The peer's script.")] = Path("benchmarks/peers/hf_generate.py"),
    prompt_tokens: Annotated[int, typer.Option(help="Tokens of each prompt.")] = 128,
    new_tokens: Annotated[int, typer.Option(help="Tokens of each answer.")] = 128,
    rounds: Annotated[int, typer.Option(help="Answers of each contestant.")] = 7,
    threads: Annotated[int | None, typer.Option(help="Of each contestant.", show_default="torch's choice")] = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Decode tokens per second of one sequence beside transformers' generate, taking turns; tokens must be equal."""
    from hanbit.bench.generate import Plan, measure, table

    plan = Plan(model, peer, peer_python, prompt_tokens, new_tokens, rounds, threads)
    rows = table(measure(plan), new_tokens)
    if as_json:
        typer.echo(json.dumps(rows))
        return
    for row in rows:
        typer.echo(
            f"{row['name']:12} {row['decode_tokens_per_second']:7.1f} tok/s {row['token_milliseconds']:8.2f} ms/tok   "
            f"hanbit is {row['hanbit_over_it']:.3f} x as fast ({row['lowest']:.3f} to {row['highest']:.3f})"
        )


@app.command()
def batch(
    model: Annotated[Path, typer.Argument(help="Model folder: models/smollm2.")],
    sequences: Annotated[list[int] | None, typer.Option(help="Answered together.", show_default="1, 8, 32")] = None,
    prompt_tokens: Annotated[int, typer.Option(help="Tokens of each prompt.")] = 128,
    new_tokens: Annotated[int, typer.Option(help="Tokens of each answer.")] = 128,
    prefix_tokens: Annotated[int, typer.Option(help="What prompts begin with in common.")] = 1000,
    requests: Annotated[int, typer.Option(help="Prompts that begin so.")] = 16,
    rounds: Annotated[int, typer.Option(help="Turns of each.")] = 5,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Tokens per second of answers that grow together, and what a shared beginning saves until the first token."""
    from hanbit.bench.batch import measure, table

    rows = table(measure(model, sequences or [1, 8, 32], prompt_tokens, new_tokens, prefix_tokens, requests, rounds))
    if as_json:
        typer.echo(json.dumps(rows))
        return
    for row in rows:
        typer.echo(
            f"{row['what']:44} {row['median']:9.1f} {row['unit']}   ({row['lowest']:.1f} to {row['highest']:.1f})"
        )


@app.command()
def serve(
    model: Annotated[Path, typer.Argument(help="Model folder: models/smollm2.")],
    prompt_tokens: Annotated[int, typer.Option(help="Tokens of the prompt.")] = 32,
    rounds: Annotated[int, typer.Option(help="Turns of each contestant.")] = 15,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Milliseconds to the first streamed token over HTTP beside the engine's own, taking turns."""
    from hanbit.bench.serve import measure, table

    rows = table(measure(model, prompt_tokens, rounds))
    if as_json:
        typer.echo(json.dumps(rows))
        return
    for row in rows:
        typer.echo(
            f"{row['name']:10} {row['first_token_milliseconds']:9.2f} ms to the first token   "
            f"adds {row['added_milliseconds']:6.2f} ms ({row['lowest']:.2f} to {row['highest']:.2f})"
        )


@app.command()
def prepare(
    tokenizer: Annotated[str, typer.Argument(help="Folder or tokenizer.json.")],
    rounds: Annotated[int, typer.Option(help="Turns of each contestant.")] = 7,
) -> None:
    """Tokens per second of `hanbit prepare` beside the tokenizer library alone and a one-document loop."""
    from hanbit.bench.prepare import measure, table

    typer.echo(table(measure(tokenizer, rounds=rounds)))

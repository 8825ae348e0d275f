"""Measure and prove: parallel training against one process, speed against other tools."""

import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hanbit.cli import conformance

if TYPE_CHECKING:  # loaded inside the functions: `hanbit --help` must stay fast
    from hanbit.bench.llama_cpp import LlamaCpp

Facts = dict[str, Any]  # of a row

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, no_args_is_help=True)
app.command("conformance")(conformance.command)


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
    _show(
        rows,
        as_json,
        lambda row: (
            f"{row['name']:10} {row['step_seconds']:8.3f} s/step {row['tokens_per_second']:9.1f} tok/s   "
            f"hanbit is {row['hanbit_over_it']:.3f} x as fast ({row['lowest']:.3f} to {row['highest']:.3f})"
        ),
    )


@app.command()
def generate(
    model: Annotated[str, typer.Argument(help="Model folder: models/smollm2; for llama.cpp a .gguf, or package:NAME.")],
    peer: Annotated[str, typer.Option(help="transformers, or llama.cpp.")] = "transformers",
    peer_path: Annotated[Path | None, typer.Option(help="Folder of llama.cpp's programs.")] = None,
    peer_python: Annotated[str, typer.Option(help="Python that has transformers.")] = sys.executable,
    requantize: Annotated[
        list[str] | None,
        typer.Option(metavar="TYPE", help="llama.cpp makes these blocks (Q4_0, Q8_0) of the file, too."),
    ] = None,
    prompt_tokens: Annotated[int, typer.Option(help="Tokens of each prompt.")] = 128,
    new_tokens: Annotated[int, typer.Option(help="Tokens of each answer.")] = 128,
    prefill_tokens: Annotated[int, typer.Option(help="Tokens of a prompt that is only read, beside llama.cpp.")] = 512,
    rounds: Annotated[int, typer.Option(help="Answers of each contestant.")] = 7,
    threads: Annotated[int | None, typer.Option(help="Of each contestant.", show_default="torch's choice")] = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Tokens per second of one sequence beside transformers or llama.cpp, taking turns, the same work proven first.

    transformers: float32, all tokens equal. llama.cpp: the same GGUF file; predictions over one text are compared.
    """
    from hanbit.bench.generate import SCRIPT, Plan, measure, table
    from hanbit.common.errors import ConfigError

    if peer == "llama.cpp":
        _beside_llama_cpp(
            model,
            peer_path,
            tuple(requantize or ()),
            (prompt_tokens, new_tokens, prefill_tokens),
            rounds,
            threads,
            as_json,
        )
        return
    if peer != "transformers":
        raise ConfigError(f"--peer {peer!r:.80} must be transformers or llama.cpp")
    if requantize or peer_path:
        raise ConfigError("--requantize and --peer-path go with --peer llama.cpp")
    plan = Plan(Path(model), SCRIPT, peer_python, prompt_tokens, new_tokens, rounds, threads)
    rows = table(measure(plan), new_tokens)
    _show(
        rows,
        as_json,
        lambda row: (
            f"{row['name']:12} {row['decode_tokens_per_second']:7.1f} tok/s {row['token_milliseconds']:8.2f} ms/tok   "
            f"hanbit is {row['hanbit_over_it']:.3f} x as fast ({row['lowest']:.3f} to {row['highest']:.3f})"
        ),
    )


def _beside_llama_cpp(
    model: str,
    peer_path: Path | None,
    types: tuple[str, ...],
    tokens: tuple[int, int, int],
    rounds: int,
    threads: int | None,
    as_json: bool,
) -> None:
    from hanbit.bench.generate_gguf import Plan, measure

    other = _llama_cpp(peer_path, threads)
    plan = Plan(_gguf(model), other, types, *tokens, rounds)
    rows = [row.facts() for row in measure(plan, _say)]
    _show(
        rows,
        as_json,
        lambda row: (
            f"{row['file']}, {row['work']}: hanbit {row['hanbit_tokens_per_second']:.1f} tok/s, llama.cpp "
            f"{row['peer_tokens_per_second']:.1f}: {row['hanbit_over_it']:.3f} x as fast ({row['lowest']:.3f} to "
            f"{row['highest']:.3f}); {row['same_likeliest_percent']:.1f}% of {row['tokens_checked']} tokens the same "
            f"likeliest, {row['divergence_nats']:.5f} nats apart"
        ),
    )


def _llama_cpp(peer_path: Path | None, threads: int | None) -> "LlamaCpp":
    from hanbit.bench.llama_cpp import HOW, LlamaCpp
    from hanbit.common.errors import ConfigError

    if peer_path is None:
        raise ConfigError(f"--peer llama.cpp needs --peer-path, the folder of its programs. {HOW}")
    if threads is None:
        import torch

        threads = torch.get_num_threads()
    if threads < 1:
        raise ConfigError(f"--threads {threads} must be at least 1")
    return LlamaCpp(peer_path.resolve(), threads)


def _gguf(model: str) -> Path:
    """The file that llama.cpp reads."""
    from hanbit.common.errors import ConfigError
    from hanbit.convert.sources import find

    path = find(model)
    if path.is_dir():
        raise ConfigError(f"{model} is a folder, llama.cpp reads a GGUF file. Name that: FILE.gguf, or package:NAME")
    return path.resolve()


def _show(rows: Sequence[Facts], as_json: bool, line: Callable[[Facts], str]) -> None:
    """All of them as JSON, or each as a line."""
    typer.echo(json.dumps(rows) if as_json else "\n".join(map(line, rows)))


def _say(text: str) -> None:
    typer.echo(text, err=True)


@app.command()
def perplexity(
    model: Annotated[str, typer.Argument(help="A .gguf file, package:NAME, or a folder that keeps its blocks.")],
    peer_path: Annotated[
        Path | None, typer.Option(help="Folder of llama.cpp's programs.", show_default="no peer")
    ] = None,
    text: Annotated[Path | None, typer.Option(help="UTF-8 file.", show_default="Python's documentation")] = None,
    context: Annotated[int, typer.Option(help="Tokens of a window; half of them are predicted.")] = 512,
    windows: Annotated[int, typer.Option(help="Of the text, from its beginning.")] = 4,
    threads: Annotated[int | None, typer.Option(help="Of llama.cpp.", show_default="torch's choice")] = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Perplexity with a file's blocks beside float32's and llama.cpp's, and how far each is from float32."""
    from hanbit.bench.llama_cpp import PERPLEXITY
    from hanbit.bench.perplexity import Plan, measure, table
    from hanbit.cli.convert import model_folder

    peer = None if peer_path is None else _llama_cpp(peer_path, threads)
    file = None if peer is None else _gguf(model)
    if peer is not None:
        peer.require(PERPLEXITY)
    found = measure(Plan(Path(model_folder(model)), file, peer, text, context, windows), _say)
    rows = table(found)
    _show(
        rows,
        as_json,
        lambda row: (
            f"{row['name']:10} perplexity {row['perplexity']:9.4f} over {row['tokens']} tokens   from float32: "
            f"{row['same_likeliest_percent']:6.2f}% the same likeliest, {row['divergence_nats']:.5f} nats"
        ),
    )


@app.command()
def batch(
    model: Annotated[str, typer.Argument(help="Model folder: models/smollm2; with a peer a .gguf, or package:NAME.")],
    sequences: Annotated[list[int] | None, typer.Option(help="Answered together.", show_default="1, 8, 32")] = None,
    prompt_tokens: Annotated[int, typer.Option(help="Tokens of each prompt.")] = 128,
    new_tokens: Annotated[int, typer.Option(help="Tokens of each answer.")] = 128,
    prefix_tokens: Annotated[int, typer.Option(help="What prompts begin with in common.")] = 1000,
    requests: Annotated[int, typer.Option(help="Prompts that begin so.")] = 16,
    rounds: Annotated[int, typer.Option(help="Turns of each, at most.")] = 5,
    seconds: Annotated[float, typer.Option(help="No round is begun that would end later.")] = 180.0,
    peer: Annotated[str | None, typer.Option(help="llama.cpp.", show_default="no peer")] = None,
    peer_path: Annotated[Path | None, typer.Option(help="Folder of llama.cpp's programs.")] = None,
    threads: Annotated[int | None, typer.Option(help="Of both.", show_default="torch's choice")] = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Tokens per second of answers that grow together, and what a shared beginning saves until the first token."""
    from hanbit.bench.batch import Plan, measure, table
    from hanbit.cli.convert import model_folder
    from hanbit.common.errors import ConfigError

    if peer not in (None, "llama.cpp"):
        raise ConfigError(f"--peer {peer!r:.80} must be llama.cpp")
    other = None if peer is None else _llama_cpp(peer_path, threads)
    file = None if peer is None else _gguf(model)
    counts = tuple(sequences or (1, 8, 32))
    plan = Plan(
        Path(model_folder(model)), counts, prompt_tokens, new_tokens, prefix_tokens, requests, rounds, seconds,
        threads, file, other,
    )  # fmt: skip
    rows = table(measure(plan, _say))
    _show(rows, as_json, _batch_line)


def _batch_line(row: Facts) -> str:
    beside = ""
    if "peer_median" in row:
        beside = (
            f"   llama.cpp {row['peer_median']:.1f}: {row['hanbit_over_it_median']:.2f} x "
            f"({row['hanbit_over_it_lowest']:.2f} to {row['hanbit_over_it_highest']:.2f})"
        )
    return (
        f"{row['what']:44} {row['median']:9.1f} {row['unit']}   ({row['lowest']:.1f} to {row['highest']:.1f}){beside}"
    )


@app.command()
def bandwidth(
    model: Annotated[str, typer.Argument(help="Model folder: models/smollm2; a .gguf file, or package:NAME.")],
    prompt_tokens: Annotated[int, typer.Option(help="Tokens of each prompt.")] = 128,
    new_tokens: Annotated[int, typer.Option(help="Tokens of each answer.")] = 128,
    rounds: Annotated[int, typer.Option(help="Answers, each between two readings.")] = 7,
    threads: Annotated[int | None, typer.Option(help="Of the engine.", show_default="torch's choice")] = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Bytes per second that decoding reads, weights and cache, over those that the same threads can read."""
    from hanbit.bench.bandwidth import Plan, measure
    from hanbit.cli.convert import model_folder

    found = measure(Plan(Path(model_folder(model)), prompt_tokens, new_tokens, rounds, threads), _say)
    _show(
        [found.facts()],
        as_json,
        lambda row: (
            f"{row['token_milliseconds']:.2f} ms a token for {row['token_megabytes']:.1f} MB: "
            f"{row['decode_gigabytes_per_second']:.1f} GB/s of {row['read_gigabytes_per_second']:.1f}, "
            f"{row['percent']:.0f}% ({row['lowest']:.0f} to {row['highest']:.0f})"
        ),
    )


@app.command()
def speculation(
    model: Annotated[str, typer.Argument(help="Model folder: models/smollm2; a .gguf file, or package:NAME.")],
    method: Annotated[str, typer.Option("--speculation", help="prompt_lookup, draft.")] = "prompt_lookup",
    num_speculative_tokens: Annotated[int, typer.Option(help="Guessed at a time, at most.")] = 8,
    prompt_lookup_max: Annotated[int, typer.Option(help="Newest tokens that are looked for, at most.")] = 4,
    prompt_lookup_min: Annotated[int, typer.Option(help="And at least.")] = 2,
    draft_model: Annotated[str | None, typer.Option(help="Smaller model, for draft.")] = None,
    new_tokens: Annotated[int, typer.Option(help="Tokens of each answer.")] = 128,
    rounds: Annotated[int, typer.Option(help="Turns of each way, at most.")] = 7,
    seconds: Annotated[float, typer.Option(help="No round is begun that would end later.")] = 180.0,
    threads: Annotated[int | None, typer.Option(help="Of the engine.", show_default="torch's choice")] = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Tokens per second with guesses over those without, on a text that repeats its prompt and on one of its own."""
    from hanbit.bench.speculation import Plan, measure, table
    from hanbit.cli.convert import model_folder
    from hanbit.cli.guessing import guessing

    draft = None if draft_model is None else model_folder(draft_model)
    method = method if draft is None else "draft"
    guessed_by = guessing(method, num_speculative_tokens, prompt_lookup_max, prompt_lookup_min, draft)
    folder = Path(model_folder(model))
    plan = Plan(folder, guessed_by, new_tokens, rounds=rounds, seconds=seconds, threads=threads)
    _show(
        table(measure(plan, _say), new_tokens),
        as_json,
        lambda row: (
            f"{row['what']:28} {row['tokens_per_second']:8.1f} tok/s, without {row['plain_tokens_per_second']:8.1f}: "
            f"{row['over_plain']:.2f} x ({row['lowest']:.2f} to {row['highest']:.2f})   "
            f"{row['right_percent']:.0f}% of {row['guessed_tokens']} guessed tokens right"
        ),
    )


@app.command()
def serve(
    model: Annotated[Path | None, typer.Argument(help="Model folder: models/smollm2; none with a peer.")] = None,
    prompt_tokens: Annotated[int, typer.Option(help="Tokens of the prompt.")] = 32,
    rounds: Annotated[int, typer.Option(help="Turns of each contestant.")] = 15,
    peer: Annotated[
        str | None, typer.Option(help="triton: the same ensemble of Python models, the same clients.")
    ] = None,
    peer_path: Annotated[Path | None, typer.Option(help="Environment that has nvidia-pytriton.")] = None,
    clients: Annotated[list[int] | None, typer.Option(help="So many at a time; again.", show_default="1 4 16")] = None,
    requests: Annotated[int, typer.Option(help="Of each client, a round.")] = 300,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Milliseconds to the first streamed token over HTTP beside the engine's own; or small models beside Triton."""
    from hanbit.bench.serve import measure, table
    from hanbit.common.errors import ConfigError

    if peer is not None:
        _serve_beside_triton(peer, peer_path, tuple(clients or (1, 4, 16)), requests, rounds, as_json)
        return
    if model is None:
        raise ConfigError("name a MODEL folder, or a peer: --peer triton --peer-path DIR")
    rows = table(measure(model, prompt_tokens, rounds))
    _show(
        rows,
        as_json,
        lambda row: (
            f"{row['name']:10} {row['first_token_milliseconds']:9.2f} ms to the first token   "
            f"adds {row['added_milliseconds']:6.2f} ms ({row['lowest']:.2f} to {row['highest']:.2f})"
        ),
    )


def _serve_beside_triton(
    peer: str, peer_path: Path | None, clients: tuple[int, ...], requests: int, rounds: int, as_json: bool
) -> None:
    from hanbit.bench.serve_triton import Plan, measure
    from hanbit.bench.triton import HOW, Triton
    from hanbit.common.errors import ConfigError

    if peer != "triton":
        raise ConfigError(f"--peer {peer!r:.80} must be triton")
    if peer_path is None:
        raise ConfigError(f"--peer triton needs --peer-path, an environment with nvidia-pytriton. {HOW}")
    for flag, value in (("--clients", min(clients)), ("--requests", requests), ("--rounds", rounds)):
        if value < 1:
            raise ConfigError(f"{flag} {value} must be at least 1")
    found = measure(Plan(Triton(peer_path), clients, requests, rounds=rounds), _say)
    _show(
        [row for one in found for row in one.facts()],
        as_json,
        lambda row: (
            f"{row['work']:46} {row['models']:14} {row['hanbit']:9.3f} {row['unit']}, triton {row['triton']:9.3f}: "
            f"{row['ratio']:.2f} x ({row['lowest']:.2f} to {row['highest']:.2f})"
        ),
    )


@app.command()
def prepare(
    tokenizer: Annotated[str, typer.Argument(help="Folder or tokenizer.json.")],
    rounds: Annotated[int, typer.Option(help="Turns of each contestant.")] = 7,
) -> None:
    """Tokens per second of `hanbit prepare` beside the tokenizer library alone and a one-document loop."""
    from hanbit.bench.prepare import measure, table

    typer.echo(table(measure(tokenizer, rounds=rounds)))

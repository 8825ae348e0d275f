"""Let a model speak: one answer to a prompt, or a chat in the terminal."""

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hanbit.cli.guessing import GUESSED_BY, guessing

if TYPE_CHECKING:  # loaded inside the functions: `hanbit --help` must stay fast
    from hanbit.engine.llm import LLM
    from hanbit.engine.output import Piece
    from hanbit.engine.prompts import Prompt
    from hanbit.engine.sampling_params import SamplingParams
    from hanbit.engine.structured_outputs import StructuredOutputs

# Where neither a flag nor the model's makers say: lively, without the unlikeliest twentieth.
_FALLBACK = {"temperature": 0.8, "top_p": 0.95}
_THEIRS = "the model's own, else"


def command(
    model: Annotated[
        str,
        typer.Argument(
            help="Model folder, run folder (runs/demo), a .gguf file, package:NAME, or a hub's org/name[@revision]."
        ),
    ],
    prompt: Annotated[
        str | None,
        typer.Argument(help="Text to continue or to answer; - reads it from stdin; left out: talk in the terminal."),
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="Tokens of the answer, at most.")] = 256,
    min_tokens: Annotated[int, typer.Option(help="Tokens before which it does not end.")] = 0,
    temperature: Annotated[
        float | None, typer.Option(help="0: always the likeliest token.", show_default=f"{_THEIRS} 0.8")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(help="Draw among the k likeliest; 0: among all.", show_default=f"{_THEIRS} 0")
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(help="Draw among the likeliest that together are this probable.", show_default=f"{_THEIRS} 0.95"),
    ] = None,
    top_p_decay: Annotated[float, typer.Option(help="Below 1: top-p shrinks by it with every token.")] = 1.0,
    top_p_min: Annotated[float, typer.Option(help="Top-p shrinks no further.")] = 1e-6,
    top_p_reset_ids: Annotated[
        list[int] | None, typer.Option(help="Token id after which top-p is whole again; may be given again.")
    ] = None,
    min_p: Annotated[
        float | None,
        typer.Option(help="Leave out what is less probable than this share of the likeliest.", show_default="0"),
    ] = None,
    repetition_penalty: Annotated[
        float | None,
        typer.Option(
            help="Above 1: what prompt or answer have already becomes less likely.", show_default=f"{_THEIRS} 1"
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same answer.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="Text that ends the answer; may be given again.")] = None,
    bad_words: Annotated[
        list[str] | None,
        typer.Option(help="Text that does not come; may be given again.", show_default=f"{_THEIRS} none"),
    ] = None,
    best_of: Annotated[int, typer.Option(help="Answers that are made; the likeliest is given.")] = 1,
    num_beams: Annotated[
        int | None,
        typer.Option(help="Above 1: the best of so many ways that are followed at once.", show_default=f"{_THEIRS} 1"),
    ] = None,
    length_penalty: Annotated[
        float | None,
        typer.Option(help="Of beams: above 0 longer answers are better.", show_default=f"{_THEIRS} 1"),
    ] = None,
    early_stopping: Annotated[
        bool | None,
        typer.Option(help="Of beams: end with the first answers.", show_default=f"{_THEIRS} no"),
    ] = None,
    json_schema: Annotated[
        Path | None, typer.Option(help="File with a JSON schema that the answer keeps to.", dir_okay=False, exists=True)
    ] = None,
    regex: Annotated[str | None, typer.Option(help="Pattern that the answer matches.")] = None,
    choice: Annotated[list[str] | None, typer.Option(help="Text that the answer may be; may be given again.")] = None,
    grammar: Annotated[
        Path | None,
        typer.Option(help="File with a grammar of the answer, Lark's or llama.cpp's.", dir_okay=False, exists=True),
    ] = None,
    chat: Annotated[
        bool | None, typer.Option("--chat/--no-chat", help="Use the chat template.", show_default="if there is one")
    ] = None,
    system: Annotated[str | None, typer.Option(help="System message of the chat.")] = None,
    adapter: Annotated[str | None, typer.Option(help="LoRA folder in peft's layout, put on the model.")] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16; auto: by the device.")] = "auto",
    device: Annotated[str, typer.Option(help="cpu, cuda; auto: cuda where there is one.")] = "auto",
    kv_cache_dtype: Annotated[
        str, typer.Option(help="auto: as the model computes; int8: a quarter of float32's memory, rounded.")
    ] = "auto",
    quantization: Annotated[
        str, typer.Option(help="blocks: compute with the quantised blocks the folder keeps; none; auto: if there are.")
    ] = "auto",
    speculation: Annotated[str, typer.Option(help=f"{GUESSED_BY}.")] = "none",
    num_speculative_tokens: Annotated[int, typer.Option(help="Guessed at a time, at most.")] = 8,
    prompt_lookup_max: Annotated[int, typer.Option(help="Newest tokens that are looked for, at most.")] = 4,
    prompt_lookup_min: Annotated[int, typer.Option(help="And at least.")] = 2,
    draft_model: Annotated[
        str | None,
        typer.Option(help="Smaller model of the same tokens that guesses: a folder, a file, a hub's name."),
    ] = None,
    no_stream: Annotated[bool, typer.Option("--no-stream", help="Print the answer when it is whole.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as one JSON object.")] = False,
) -> None:
    """Let a model speak: one answer to a prompt, or a chat in the terminal (/exit ends it)."""
    given: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p, "seed": seed}
    given |= {"repetition_penalty": repetition_penalty, "bad_words": bad_words or None}
    given |= {"num_beams": num_beams, "length_penalty": length_penalty, "early_stopping": early_stopping}
    given["best_of"] = None if best_of == 1 else best_of
    flags: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    flags |= {"max_tokens": max_tokens, "min_tokens": min_tokens, "stop": stop or []}
    flags |= {"top_p_decay": top_p_decay, "top_p_min": top_p_min, "top_p_reset_ids": top_p_reset_ids or []}
    form = {"json": _read(json_schema), "regex": regex, "choice": choice or None, "grammar": _read(grammar)}
    is_conversation = prompt is None and sys.stdin.isatty()
    flags["structured_outputs"] = _form(form)
    _check(flags, is_conversation, as_json, chat, system)
    guessed_by = guessing(speculation, num_speculative_tokens, prompt_lookup_max, prompt_lookup_min, draft_model)

    from hanbit.cli.convert import model_folder
    from hanbit.engine.defaults import merged
    from hanbit.engine.llm import LLM
    from hanbit.engine.sampling_params import SamplingParams

    folder = model_folder(model)
    if guessed_by.draft_model is not None:
        guessed_by = replace(guessed_by, draft_model=model_folder(str(guessed_by.draft_model)))
    llm = LLM(
        folder,
        dtype=dtype,
        device=device,
        quantization=quantization,
        kv_cache_dtype=kv_cache_dtype,
        speculation=guessed_by,
    )
    if adapter is not None:
        llm.add_adapter(adapter, adapter)
    params = SamplingParams(**merged(llm.defaults.over(_FALLBACK), flags))
    is_chat = llm.tokenizer.chat_template is not None if chat is None else chat
    start = [] if system is None else [{"role": "system", "content": system}]
    if is_conversation:
        _converse(llm, params, start if is_chat else None, adapter)
        return
    text = _piped() if prompt is None or prompt == "-" else prompt
    tokens = llm.chat_prompt([*start, {"role": "user", "content": text}]) if is_chat else text
    answer = _Answer(llm.stream(tokens, params, adapter=adapter))
    if as_json:
        typer.echo(json.dumps(answer.facts(), ensure_ascii=False))
    elif no_stream:
        typer.echo(answer.whole())
    else:
        answer.speak()
    if not as_json:
        typer.echo(answer.numbers() + _guessed(llm), err=True)


def _guessed(llm: "LLM") -> str:
    """How much of the answers so far was guessed rightly, where anything is."""
    counts = llm.speculation_counts
    if llm.speculation.method == "none":
        return ""
    return f", {counts.accepted_tokens} of {counts.draft_tokens} guessed tokens were right"


def _read(path: Path | None) -> str | None:
    return None if path is None else path.read_text(encoding="utf-8")


def _form(given: dict[str, Any]) -> "StructuredOutputs | None":
    from hanbit.common.errors import ConfigError, GrammarError
    from hanbit.engine.structured_outputs import StructuredOutputs

    try:
        return StructuredOutputs(**given) if any(given.values()) else None
    except GrammarError as problem:
        raise ConfigError(
            str(problem).replace("structured_outputs.", "--").replace("--json ", "--json-schema ")
        ) from None


def _check(flags: dict[str, Any], is_conversation: bool, as_json: bool, chat: bool | None, system: str | None) -> None:
    """What is wrong is said before a model is loaded."""
    from hanbit.common.errors import ConfigError, GenerationError
    from hanbit.engine.sampling_params import SamplingParams

    try:
        SamplingParams(**flags)
    except GenerationError as problem:
        name, _, rest = str(problem).partition("=")
        raise ConfigError(f"--{name.replace('_', '-')}={rest}") from None
    if as_json and is_conversation:
        raise ConfigError("--json prints one answer: give a PROMPT, or - to read it from stdin")
    if system is not None and chat is False:
        raise ConfigError("--system is a message of a chat; with --no-chat there is none. Leave one of them out")


def _piped() -> str:
    """Standard input, as UTF-8 whatever the terminal's language is."""
    from hanbit.common.errors import GenerationError

    content = sys.stdin.buffer.read()
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as problem:
        raise GenerationError(
            f"standard input: byte 0x{content[problem.start]:02x} at place {problem.start + 1} is not UTF-8. "
            "Convert it, for example with `iconv -f CP949 -t UTF-8`"
        ) from None


class _Answer:
    """One answer being made, with its clock."""

    def __init__(self, pieces: "Iterator[Piece]") -> None:
        self._pieces = pieces
        self._began = time.perf_counter()
        self._first = self._last = self._began
        self._said: list[str] = []
        self._token_ids: list[int] = []
        self._finish_reason: str | None = None

    def __iter__(self) -> Iterator[str]:
        for piece in self._pieces:
            self._last = time.perf_counter()
            if not self._token_ids:
                self._first = self._last
            self._token_ids += piece.token_ids
            self._said.append(piece.text)
            self._finish_reason = piece.finish_reason
            yield piece.text

    def speak(self) -> None:
        for text in self:
            sys.stdout.write(text)
            sys.stdout.flush()
        typer.echo()

    def whole(self) -> str:
        for _ in self:
            pass
        return self.text

    @property
    def text(self) -> str:
        """What has been said so far."""
        return "".join(self._said)

    @property
    def tokens_per_second(self) -> float | None:
        """Of the tokens after the first, which waits for the prompt to be read."""
        seconds = self._last - self._first
        return (len(self._token_ids) - 1) / seconds if seconds > 0 else None

    def facts(self) -> dict[str, Any]:
        text, speed = self.whole(), self.tokens_per_second
        return {
            "text": text,
            "token_ids": self._token_ids,
            "finish_reason": self._finish_reason,
            "tokens": len(self._token_ids),
            "first_token_seconds": round(self._first - self._began, 4),
            "tokens_per_second": None if speed is None else round(speed, 1),
        }

    def numbers(self) -> str:
        speed = self.tokens_per_second
        rate = "" if speed is None else f", then {speed:.1f} tokens/s"
        return f"{len(self._token_ids)} tokens, first after {(self._first - self._began) * 1000:.0f} ms{rate}"


def _converse(llm: "LLM", params: "SamplingParams", messages: list[dict[str, str]] | None, adapter: str | None) -> None:
    """Lines of the user and answers in turn; for a base model (None) every line is a text to continue."""
    from hanbit.common.errors import GenerationError

    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (line editing and history of input())
    typer.echo("Talk to the model; /exit or Ctrl-D ends, Ctrl-C cuts an answer short.", err=True)
    while (text := _line()) is not None:
        if not text.strip():
            continue
        try:
            _reply(llm, params, text, messages, adapter)
        except GenerationError as problem:
            typer.echo(str(problem), err=True)


def _line() -> str | None:
    """What the user says next; None when the talk is over."""
    try:
        text = input("> ")
    except (EOFError, KeyboardInterrupt):
        typer.echo()
        return None
    except UnicodeDecodeError as problem:
        typer.echo(f"that line is not UTF-8 ({problem}); it is left out", err=True)
        return ""
    return None if text.strip() == "/exit" else text


def _reply(
    llm: "LLM", params: "SamplingParams", text: str, messages: list[dict[str, str]] | None, adapter: str | None
) -> None:
    """Answer, and remember both sides if this is a chat and the answer came about."""
    turn = {"role": "user", "content": text}
    prompt = text if messages is None else _fitting(llm, params, messages, turn)
    answer = _Answer(llm.stream(prompt, params, adapter=adapter))
    try:
        answer.speak()
    except KeyboardInterrupt:
        typer.echo()
    typer.echo(answer.numbers() + _guessed(llm), err=True)
    if messages is not None:
        messages += [turn, {"role": "assistant", "content": answer.text}]


def _fitting(llm: "LLM", params: "SamplingParams", messages: list[dict[str, str]], turn: dict[str, str]) -> "Prompt":
    """The conversation as tokens; its oldest exchanges are dropped until the answer has room in the context."""
    first = 1 if messages and messages[0]["role"] == "system" else 0
    tokens = llm.chat_prompt([*messages, turn])
    while len(tokens) + (params.max_tokens or 1) > llm.context and len(messages) > first:
        del messages[first : first + 2]
        typer.echo("(the oldest exchange is forgotten: the context is full)", err=True)
        tokens = llm.chat_prompt([*messages, turn])
    return tokens

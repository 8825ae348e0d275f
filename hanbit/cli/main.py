"""The entry: finds a verb by its file's name, imports it when it is used, and turns errors into one message.

A file here is a verb; it offers `command`, a function with typer annotations, or `app`, a typer group. Exit codes:
0 done, 1 failed, 2 wrong usage or configuration, 130 interrupted. `hanbit --help` imports no verb and no typer.
"""

import ast
import difflib
import importlib
import logging
import os
import re
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import hanbit
from hanbit.cli.words import say
from hanbit.common.errors import ConfigError, HanbitError
from hanbit.common.log import rank, start_logging
from hanbit.launch.failure import note_failure
from hanbit.launch.parent import end_with_parent, is_rank_of_torchrun

logger = logging.getLogger(__name__)

NOT_VERBS = {"__init__", "conformance", "guessing", "main", "words"}
INTERRUPTED = 130
DEBUG = "HANBIT_DEBUG"
_LISTENING_SECONDS = 2.0
_DOTTED = re.compile(r"--([a-z_]+(?:\.[a-z_0-9]+)+)(=.*)?", re.DOTALL)
_OPTIONS = {
    "--help": "Show this message; `hanbit VERB --help` shows a verb's own.",
    "--version": "Show the version.",
    "--install-completion": "Complete verbs and options in this shell.",
    "--debug": "Show a traceback with an error.",
}


def main() -> None:
    if is_rank_of_torchrun():
        end_with_parent(signal.SIGKILL)
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """The exit code of one command line."""
    if "--debug" in arguments:
        os.environ[DEBUG] = "1"  # the processes that a verb starts are of one mind with it
    arguments = as_overrides([argument for argument in arguments if argument != "--debug"])
    try:
        start_logging(_is_debug())
        code = _dispatch(arguments)
        return _interrupted() if code == INTERRUPTED else code
    except BrokenPipeError:  # `hanbit ... | head`: nobody reads on, and that is no fault
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except HanbitError as problem:
        if problem.is_told_by_another:
            logger.debug("%s", problem)
            time.sleep(_LISTENING_SECONDS)  # torchrun ends all as soon as one has ended, also the one that speaks
            return problem.exit_code
        return _failed(str(problem), problem.exit_code)
    except KeyboardInterrupt:
        return _interrupted()
    except OSError as problem:  # the disk is full, a file is not ours to read: the system's words say what and where
        return _failed(str(problem), 1)
    except Exception as problem:
        return _failed(_unforeseen(problem), 1)


def _dispatch(arguments: list[str]) -> int:
    first = arguments[0] if arguments else "--help"
    if "_HANBIT_COMPLETE" in os.environ:  # a shell asks what may come next
        _with_typer(_whole_app(), arguments)
        return 0
    if first in ("--help", "-h", "help"):
        print(help_text())
        return 0
    if first == "--version":
        print(f"hanbit {hanbit.__version__}")
        return 0
    if first == "--install-completion":
        return _with_typer(_whole_app(), arguments)
    if first not in verb_names():
        raise ConfigError(_no_such_verb(first))
    return _with_typer(load_verb(first), arguments[1:], f"hanbit {first}")


def _no_such_verb(name: str) -> str:
    near = difflib.get_close_matches(name, verb_names(), n=3, cutoff=0.5)
    hint = say("Did you mean {}?").format(", ".join(near)) if near else say("Verbs: {}").format(", ".join(verb_names()))
    return f"{say('there is no verb {!r}.').format(name)} {hint}"


def _with_typer(app: Any, arguments: list[str], name: str = "hanbit") -> int:
    import typer

    try:
        result = typer.main.get_command(app).main(arguments, prog_name=name, standalone_mode=False)
    except typer.TyperException as problem:
        context = getattr(problem, "ctx", None)
        usage = f"\n{context.get_usage()}" if context is not None else ""
        return _failed(f"{problem.format_message()}{usage}", 2)
    except typer.Abort:
        return INTERRUPTED
    return result if isinstance(result, int) else 0


def load_verb(name: str) -> Any:
    """A typer app; the verb's module is imported here and not before."""
    import typer

    module = importlib.import_module(f"hanbit.cli.{name}")
    if hasattr(module, "app"):
        return module.app
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(name, context_settings=getattr(module, "CONTEXT", {}))(module.command)
    return app


def _whole_app() -> Any:
    """Every verb in one app: what shell completion needs."""
    import typer

    app = typer.Typer(name="hanbit")
    for name in verb_names():
        module = importlib.import_module(f"hanbit.cli.{name}")
        if hasattr(module, "app"):
            app.add_typer(module.app, name=name)
        else:
            app.command(name, context_settings=getattr(module, "CONTEXT", {}))(module.command)
    return app


def verb_names() -> list[str]:
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in NOT_VERBS)


def first_sentence(verb: str) -> str:
    """The first line of the verb's file, without importing it."""
    text = Path(__file__).with_name(f"{verb}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(text)) or "").split("\n")[0]


def help_text() -> str:
    lines = [say("From raw text to a large language model trained over many devices, and one that speaks.")]
    lines += ["", "hanbit VERB [RECIPE] [section.key=value ...]", ""]
    lines += [f"  {name:<10} {say(name, first_sentence(name))}" for name in verb_names()]
    lines += ["", *(f"  {name:<22} {say(name, text)}" for name, text in _OPTIONS.items())]
    return "\n".join(lines)


def as_overrides(arguments: list[str]) -> list[str]:
    """`--section.key value` and `--section.key=value` are `section.key=value`."""
    found: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        match = _DOTTED.fullmatch(argument)
        if match is None:
            found.append(argument)
        elif match[2] is not None:
            found.append(match[1] + match[2])
        else:
            found.append(f"{match[1]}={next(rest, 'true')}")
    return found


def _is_debug() -> bool:
    return os.environ.get(DEBUG, "") not in ("", "0")


def _interrupted() -> int:
    if not is_rank_of_torchrun():  # the launcher says it for all
        print(say("interrupted"), file=sys.stderr)
    return INTERRUPTED


def _unforeseen(problem: Exception) -> str:
    """An error that no code of ours has put into words: what it is and the last place of ours that it went through.

    One that says nothing stands for its cause.
    """
    ours = [frame for frame in traceback.extract_tb(problem.__traceback__) if "/hanbit/" in frame.filename]
    place = f" ({ours[-1].filename}:{ours[-1].lineno})" if ours else ""
    telling: BaseException = problem
    while not str(telling).strip() and telling.__cause__ is not None:
        telling = telling.__cause__
    return f"{type(telling).__name__}: {telling}{place}. {say('Add --debug to see the traceback.')}"


def _known_rank() -> int:
    """0 as well where RANK is no number, which is the failure then."""
    try:
        return rank()
    except ConfigError:
        return 0


def _failed(message: str, code: int) -> int:
    """Of several processes rank 0 speaks; the others say who they are, in their own logs."""
    if _is_debug():
        traceback.print_exc()
    else:
        logger.debug("%s", message, exc_info=sys.exc_info()[0] is not None)  # a rank's log keeps every line
    where = f"[rank {_known_rank()}] " if _known_rank() else ""
    label = f"{say('error')}:"
    if sys.stderr.isatty() and "NO_COLOR" not in os.environ:
        label = f"\033[31m{label}\033[0m"
    print(f"{where}{label} {message}", file=sys.stderr)
    note_failure(message, code)
    return code

"""The `tramontane` command: a table of verbs, each imported when it is called, and the one place errors become exits.

Exit codes: 0 done; 2 the user's mistake or a limit of the machine (one line on stderr); 130 interrupted; 141 the
reader of our output went away. `TRAMONTANE_DEBUG=1` shows the trace behind a one-line error.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import tramontane
from tramontane.cli.options import HELP_SETTINGS, as_command, as_group
from tramontane.errors import TramontaneError
from tramontane.extras import missing_extra

VERBS = (
    *("chat", "generate", "fim", "summarize", "ask", "info", "pull", "convert", "synth", "bench", "eval"),
    *("data", "tokenizer", "plan", "pretrain", "finetune", "merge", "average", "card", "serve", "keys", "usage"),
    *("adopt", "database"),
)
GROUPS = {"data": ("build",), "tokenizer": ("train",), "database": ("move",)}  # verbs of two words
BAD_INPUT, INTERRUPTED, BROKEN_PIPE = 2, 130, 141


class LazyGroup(TyperGroup):
    """Verb `x` is the function `x` of the module `tramontane.cli.x`, imported when it is needed; the verb of two words
    `x y` is its function `y`."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"tramontane.cli.{cmd_name}")
        if cmd_name not in GROUPS:
            return as_command(getattr(module, cmd_name))
        about = (module.__doc__ or "").partition(": ")[2]
        return as_group(cmd_name, about, {verb: getattr(module, verb) for verb in GROUPS[cmd_name]})


app = typer.Typer(
    cls=LazyGroup,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings=HELP_SETTINGS,
)


@app.callback(invoke_without_command=True)
def tramontane_command(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Run, talk to, measure and convert Mistral-family language models on your own machine."""
    if version:
        typer.echo(f"tramontane {tramontane.__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (None: that of this process) and return its exit code."""
    debug = os.environ.get("TRAMONTANE_DEBUG") == "1"
    if not open_missing_streams():
        return report("standard output is closed; send it to a file, or to /dev/null")
    try:
        code = app(args=arguments, prog_name="tramontane", standalone_mode=False)
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit):  # typer turns the first into the second
        return silence_stdout()
    except KeyboardInterrupt:
        return INTERRUPTED
    except typer.TyperException as error:
        return report(f"{error.format_message().rstrip('.')} (see {usage_hint(error)})")
    except typer.Abort:
        return INTERRUPTED
    except TramontaneError as error:
        if debug:
            raise
        return report(str(error))
    except ModuleNotFoundError as error:
        missing = missing_extra(error)
        if debug or missing is None:
            raise
        return report(missing)
    except OSError as error:
        if debug:
            raise
        if error.filename is not None:
            return report(f"{error.filename}: {error.strerror}")
        silence_stdout()  # it may be what failed, and is flushed once more at exit
        return report(f"{error.strerror or error} (standard output, or a file that was being written)")
    return code if isinstance(code, int) else 0


def usage_hint(error: typer.TyperException) -> str:
    context = getattr(error, "ctx", None)
    return f"{context.command_path if context is not None else 'tramontane'} --help"


def report(message: str) -> int:
    """One line on stderr, whatever the message holds: control characters of a hostile file name never reach the
    terminal."""
    line = "".join(c if c.isprintable() else " " for c in message)
    print(f"error: {' '.join(line.split())}", file=sys.stderr)
    return BAD_INPUT


def open_missing_streams() -> bool:
    """Whether there is a standard output to write to. Streams that were closed before the start (`>&-`) are opened on
    nothing, lest the next file that is opened takes their place."""
    has_stdout = sys.stdout is not None
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - for the rest of the process
    return has_stdout


def silence_stdout() -> int:
    """Point stdout at nothing, so that the interpreter's own flush at exit stays silent too."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return BROKEN_PIPE


def main() -> None:
    """Entry point of the `tramontane` script."""
    sys.exit(run())

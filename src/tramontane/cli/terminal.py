"""What verbs share of the terminal: text in, text, JSON and progress out."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tramontane.errors import RequestError

if TYPE_CHECKING:
    from rich.progress import Progress


def read_text(argument: str) -> str:
    """The argument itself, or all of stdin for `-`. Raises RequestError for bytes that are not UTF-8."""
    if argument != "-":
        return argument
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(f"stdin is not UTF-8 text (byte {error.start})") from None


def print_json(value: Any) -> None:
    """One line, so that several results make JSON lines. Never NaN or Infinity, which JSON does not know."""
    print(json.dumps(value, ensure_ascii=False, allow_nan=False), flush=True)


def printable(text: str) -> str:
    """Model output fit for a terminal: control characters, which could move the cursor or worse, are left out."""
    return "".join(c for c in text if c in "\n\t" or c.isprintable())


def write_answer(delta: str) -> None:
    """Print a part of an answer at once: filtered on a terminal, untouched in a pipe."""
    sys.stdout.write(printable(delta) if sys.stdout.isatty() else delta)
    sys.stdout.flush()


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A progress display on stderr, silent where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        yield progress

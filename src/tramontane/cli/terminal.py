"""What verbs share of the terminal: text in, text, JSON and progress out."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tramontane.errors import CheckpointError, RequestError

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn, TaskID

    from tramontane.llm import Choice, Completion, Delta


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


def print_table(rows: Sequence[Sequence[str]], *, num_texts: int) -> None:
    """The first row has the headings. The first `num_texts` columns hold texts, the others numbers."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (
            cell.ljust(width) if place < num_texts else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join(cells).rstrip())


def amount(value: float, unit: str = "") -> str:
    """A count or a size for people: 7.24 G, 14.48 GB, 446.5 k."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.2f} {prefix}{unit}"
    return f"{value:.0f} {unit}".rstrip()


def write_answer(text: str, *, dim: bool = False) -> None:
    """Print a part of an answer at once: filtered on a terminal, untouched in a pipe. `dim` is for asides."""
    if sys.stdout.isatty():
        text = printable(text)
        text = f"\x1b[2m{text}\x1b[0m" if dim and text else text
    sys.stdout.write(text)
    sys.stdout.flush()


def completion_json(completion: Completion, choice: Choice) -> dict[str, Any]:
    """What `--json` prints of one answer."""
    return {
        "text": choice.text,
        "token_ids": choice.token_ids,
        "finish_reason": choice.finish_reason,
        **({"error": choice.error} if choice.error is not None else {}),
        "prompt_tokens": len(completion.prompt_token_ids),
        "completion_tokens": len(choice.token_ids),
    }


def require_sound(finish_reason: str | None) -> None:
    """Raise CheckpointError for an answer that the engine had to break off."""
    if finish_reason in ("error", "refused"):
        raise CheckpointError(
            "the answer broke off, since the model's scores are not finite: its weights are damaged or leave the "
            "range of the dtype; try --dtype float32"
        )


def write_stream(deltas: Iterable[Delta]) -> int:
    """Print an answer as it comes, and a line end; returns its number of tokens. Raises CheckpointError as
    `require_sound` does."""
    finish_reason, num_tokens = None, 0
    for delta in deltas:
        write_answer(delta.text)
        finish_reason = delta.finish_reason
        num_tokens += len(delta.token_ids)
    write_answer("\n")
    require_sound(finish_reason)
    return num_tokens


def write_stats(num_tokens: int, seconds: float) -> None:
    """Tokens and speed of an answer, on stderr."""
    print(f"[{num_tokens} tokens in {seconds:.1f} s: {num_tokens / seconds:.1f} tokens/s]", file=sys.stderr)


def bar(*columns: ProgressColumn) -> Progress:
    """A display on stderr that leaves nothing behind; silent where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(stderr=True)
    description = TextColumn("{task.description}", markup=False)
    return Progress(
        description, BarColumn(), *columns, console=console, disable=not console.is_terminal, transient=True
    )


@contextmanager
def bytes_bar(description: str) -> Iterator[Callable[[int, int], None]]:
    """Progress of loading or writing: call what it yields with (bytes done, bytes in all)."""
    from rich.progress import DownloadColumn, TransferSpeedColumn

    with bar(DownloadColumn(binary_units=True), TransferSpeedColumn()) as display:
        task = display.add_task(printable(description), total=None)
        yield lambda done, total: display.update(task, completed=done, total=total)


@contextmanager
def counted_bar(description: str) -> Iterator[Callable[[int, int], None]]:
    """Progress of anything countable: call what it yields with (done, in all)."""
    from rich.progress import TaskProgressColumn, TimeRemainingColumn

    with bar(TaskProgressColumn(), TimeRemainingColumn()) as display:
        task = display.add_task(printable(description), total=None)
        yield lambda done, total: display.update(task, completed=done, total=total)


@contextmanager
def counted_lines(unit: str) -> Iterator[Callable[[str, int], None]]:
    """Progress of parts whose size is not known before: call what it yields with (part, done)."""
    from rich.progress import TextColumn

    with bar(TextColumn("{task.completed:,.0f} " + unit)) as display:
        tasks: dict[str, TaskID] = {}

        def report(part: str, done: int) -> None:
            if part not in tasks:
                tasks[part] = display.add_task(printable(part), total=None)
            display.update(tasks[part], completed=done)

        yield report


@contextmanager
def files_bar() -> Iterator[Callable[[str, int, int], None]]:
    """Progress of several files: call what it yields with (file, bytes present, bytes in all)."""
    from rich.progress import DownloadColumn, TimeRemainingColumn, TransferSpeedColumn

    with bar(DownloadColumn(binary_units=True), TransferSpeedColumn(), TimeRemainingColumn()) as display:
        tasks: dict[str, TaskID] = {}

        def report(file: str, done: int, total: int) -> None:
            if file not in tasks:
                tasks[file] = display.add_task(printable(file), total=total)
            display.update(tasks[file], completed=done)

        yield report


@contextmanager
def passes_bar() -> Iterator[Callable[[int, int, int], None]]:
    """Progress in several passes: call what it yields with (pass, parts done, parts of this pass)."""
    from rich.progress import MofNCompleteColumn, TimeRemainingColumn

    with bar(MofNCompleteColumn(), TimeRemainingColumn()) as display:
        tasks: dict[int, TaskID] = {}

        def report(number: int, done: int, total: int) -> None:
            if number not in tasks:
                tasks[number] = display.add_task(f"pass {number}", total=total)
            display.update(tasks[number], completed=done)

        yield report

"""JSON Lines of training samples: every line checked, every problem told with file, line and remedy.

The same checks serve a build (which stops at the first problem) and an upload (which wants all of them).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tramontane.errors import DataError

T = TypeVar("T")
Parse = Callable[[Mapping[str, Any]], T]
"""Makes a sample of one line's JSON object, or raises DataError saying what is wrong, without the place."""

MAX_LINE_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class LineProblem:
    """Why line `line` (from 1) is no sample."""

    line: int
    message: str


@dataclass(frozen=True, slots=True)
class FileCheck:
    """The outcome of checking a file. `problems` holds the first ones only; `num_invalid` counts all."""

    num_valid: int
    num_invalid: int
    problems: tuple[LineProblem, ...]

    @property
    def num_lines(self) -> int:
        return self.num_valid + self.num_invalid

    def is_unsound(self, max_invalid_share: float) -> bool:
        """Whether no line is valid, or a larger share (0 to 1) than that is not."""
        return not self.num_valid or self.num_invalid > max_invalid_share * self.num_lines


class UnsoundFileError(DataError):
    """A file holds too many lines that are no sample; `check` has the first of them."""

    SHOWN = 5

    def __init__(self, path: Path, check: FileCheck) -> None:
        told = "; ".join(f"line {problem.line}: {problem.message}" for problem in check.problems[: self.SHOWN])
        more = f"; and {check.num_invalid - self.SHOWN} more" if check.num_invalid > self.SHOWN else ""
        super().__init__(f"{path.name}: {check.num_invalid} of {check.num_lines} lines are invalid: {told}{more}")
        self.path = path
        self.check = check


def read_samples(path: Path, parse: Parse[T], *, skip_invalid: bool = False) -> Iterator[tuple[int, T]]:
    """(line, sample) of each non-empty line. Raises DataError at the first invalid line, unless they are to be
    skipped, and for a file without any sample."""
    found = False
    for line, outcome in _each_line(path, parse):
        if isinstance(outcome, DataError):
            if not skip_invalid:
                raise DataError(f"{path.name}:{line}: {outcome}")
            continue
        found = True
        yield line, outcome
    if not found:
        raise DataError(f"{path.name}: holds no sample; write one JSON object per line")


def check_file(path: Path, parse: Parse[Any], *, max_problems: int = 100) -> FileCheck:
    """Check all lines; never raises for what is in the file."""
    num_valid = num_invalid = 0
    problems: list[LineProblem] = []
    for line, outcome in _each_line(path, parse):
        if isinstance(outcome, DataError):
            num_invalid += 1
            if len(problems) < max_problems:
                problems.append(LineProblem(line, str(outcome)))
        else:
            num_valid += 1
    if not num_valid and not num_invalid:
        problems.append(LineProblem(1, "the file is empty; write one JSON object per line"))
    return FileCheck(num_valid, num_invalid, tuple(problems))


def _each_line(path: Path, parse: Parse[T]) -> Iterator[tuple[int, T | DataError]]:
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES:
                yield number, DataError(f"longer than {MAX_LINE_BYTES >> 20} MiB; is this file JSON Lines? Shorten it")
                while line and not line.endswith(b"\n"):
                    line = file.readline(MAX_LINE_BYTES)
            elif line.strip():
                try:
                    yield number, parse(_object(line, is_first=number == 1))
                except DataError as error:
                    yield number, error


def _object(line: bytes, *, is_first: bool) -> Mapping[str, Any]:
    try:
        value = json.loads(line.decode("utf-8-sig" if is_first else "utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise DataError(f"byte {error.start} is not UTF-8; save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        raise DataError(f"not valid JSON: {error.msg} at column {error.colno}; write one object per line") from None
    except RecursionError:
        raise DataError("JSON nested too deeply; a sample needs a few levels only") from None
    except ValueError as error:
        raise DataError(f"not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise DataError(f"a JSON {type(value).__name__}; each line must be an object {{...}}")
    return value


def _refuse_constant(name: str) -> float:
    raise DataError(f"{name} is not valid JSON; use a number or null")

"""Files of training samples: every row checked, every problem told with file, line and remedy.

JSON Lines, a JSON array, CSV, TSV or parquet, each also compressed. The same checks serve a build (which stops at the
first problem) and an upload (which wants all of them).
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from tramontane.data.hub_files import PREFIX, fetch_hub_files
from tramontane.data.sources import decompressed_file, read_file
from tramontane.errors import DataError

T = TypeVar("T")
Parse = Callable[[Mapping[str, Any]], T]
"""Makes a sample of one row, or raises DataError saying what is wrong, without the place."""

MAX_LINE_BYTES = 16 * 2**20
MAX_ARRAY_BYTES = 32 * 2**20
"""Of a stranger's JSON array, which must be parsed as one: JSON Lines have no such limit."""
MAX_LINES = 4_000_000
MAX_UNPACKED_BYTES = 4 * 2**30
"""Of a stranger's file, blank lines and what was compressed included: a small file may hold any number."""
TOO_MUCH = f"more than {MAX_LINES:,} lines, or {MAX_UNPACKED_BYTES >> 30} GiB when it is unpacked; split the file"
_TABLES = (".csv", ".tsv", ".parquet")
_WEIGHTED = re.compile(r"(?P<address>.+):(?P<weight>\d+(?:\.\d+)?)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class SampleFile:
    """A file of samples, each of which is seen `weight` times in an epoch."""

    path: Path
    weight: float = 1.0


def sample_files(address: str | Path) -> list[SampleFile]:
    """The files that `FILE`, `FILE:WEIGHT` or `hf://datasets/OWNER/NAME/GLOB` names. Raises DataError for one that is
    not there or has no weight above 0."""
    text, weight = str(address), 1.0
    match = _WEIGHTED.fullmatch(text)
    if match is not None and not Path(text).exists():
        text, weight = match["address"], float(match["weight"])
        if weight == 0:
            raise DataError(f"{address}: a weight must be above 0; leave the file out")
    paths = list(fetch_hub_files(text).values()) if text.startswith(PREFIX) else [Path(text)]
    for path in paths:
        if not path.is_file():
            raise DataError(f"{path}: {'is a folder; name its files' if path.is_dir() else 'there is no such file'}")
    return [SampleFile(path, weight) for path in paths]


@dataclass(frozen=True, slots=True)
class LineProblem:
    """Why line `line` (from 1; of CSV and parquet the row) is no sample."""

    line: int
    message: str


class BrokenOffError(DataError):
    """A file cannot be read beyond a place, so that nobody knows what else it holds."""


@dataclass(frozen=True, slots=True)
class FileCheck:
    """The outcome of checking a file. `problems` holds the first ones only; `num_invalid` counts all. `is_whole`: the
    whole file could be read."""

    num_valid: int
    num_invalid: int
    problems: tuple[LineProblem, ...]
    is_whole: bool = True

    @property
    def num_lines(self) -> int:
        return self.num_valid + self.num_invalid

    def is_unsound(self, max_invalid_share: float) -> bool:
        """Whether no line is valid, a larger share (0 to 1) than that is not, or the file breaks off."""
        return not self.num_valid or not self.is_whole or self.num_invalid > max_invalid_share * self.num_lines


class UnsoundFileError(DataError):
    """A file holds too many lines that are no sample; `check` has the first of them."""

    SHOWN = 5

    def __init__(self, path: Path, check: FileCheck) -> None:
        first: dict[str, LineProblem] = {}  # what differs in a number only is told once
        for problem in check.problems:
            first.setdefault(re.sub(r"\d+", "", problem.message), problem)
        shown = list(first.values())[: self.SHOWN]
        told = "; ".join(f"line {problem.line}: {problem.message}" for problem in shown)
        more = f"; and {check.num_invalid - len(shown)} more" if check.num_invalid > len(shown) else ""
        if check.num_lines == 0:
            told = check.problems[0].message
        elif check.num_lines > 1:
            told = f"{_share(check)}: {told}"
        super().__init__(f"{path.name}: {told}{more}")
        self.path = path
        self.check = check


def _share(check: FileCheck) -> str:
    if not check.num_valid:
        return f"none of {check.num_lines} lines is a sample"
    are_none = "is no sample" if check.num_invalid == 1 else "are no samples"
    return f"{check.num_invalid} of {check.num_lines} lines {are_none}"


def read_samples(path: Path, parse: Parse[T], *, skip_invalid: bool = False) -> Iterator[tuple[int, T]]:
    """(line, sample) of each non-empty line. Raises DataError at the first invalid line, unless they are to be
    skipped, and for a file without any sample."""
    found = False
    for line, outcome in _each_sample(path, parse):
        if isinstance(outcome, DataError):
            if not skip_invalid:
                raise DataError(f"{path.name}:{line}: {outcome}")
            continue
        found = True
        yield line, outcome
    if not found:
        raise DataError(f"{path.name}: holds no sample; write one JSON object per line")


def check_file(
    path: Path, parse: Parse[Any], *, max_problems: int = 100, check_json: Callable[[bytes], None] | None = None
) -> FileCheck:
    """Check all lines; never raises for what is in the file. `check_json`, for files of strangers, gets the bytes of
    each JSON line before they are parsed and raises DataError for what must not be; then an array of rows may have
    MAX_ARRAY_BYTES."""
    num_valid = num_invalid = 0
    is_whole = True
    problems: list[LineProblem] = []
    for line, outcome in _each_sample(path, parse, check_json):
        if isinstance(outcome, DataError):
            num_invalid += 1
            is_whole = is_whole and not isinstance(outcome, BrokenOffError)
            if len(problems) < max_problems or not is_whole:
                problems.append(LineProblem(line, str(outcome)))
        else:
            num_valid += 1
    if not num_valid and not num_invalid:
        problems.append(LineProblem(1, "the file is empty; write one JSON object per line"))
    return FileCheck(num_valid, num_invalid, tuple(problems), is_whole)


def each_row(
    path: Path, check_json: Callable[[bytes], None] | None = None
) -> Iterator[tuple[int, Mapping[str, Any] | DataError]]:
    """(line, its object or what is wrong with it) of all lines that are not blank. `check_json` as for `check_file`."""
    number = 0
    try:
        with decompressed_file(path, path.name) as (stream, suffix):
            if suffix not in _TABLES:
                for number, row in _json_rows(stream, check_json):
                    yield number, row
                return
        names = _class_names(path) if suffix == ".parquet" else {}
        for record in read_file(path, path.name, path.stem):
            number = record.origin.row
            yield number, {key: _named(item, names.get(key)) for key, item in record.fields.items()}
    except DataError as error:  # of the whole file, or of the row where a table breaks off
        yield number + 1, BrokenOffError(str(error).removeprefix(f"{path.name}: "))


def is_json_lines(path: Path) -> bool:
    """Whether a file can be read line by line as it lies there."""
    with decompressed_file(path, path.name) as (stream, suffix), path.open("rb") as raw:
        is_plain = stream.read(4) == raw.read(4) and suffix not in _TABLES
        raw.seek(0)
        start = raw.read(1 << 16).removeprefix(b"\xef\xbb\xbf").lstrip()
        return is_plain and start[:1] != b"["


def _each_sample(
    path: Path, parse: Parse[T], check_json: Callable[[bytes], None] | None = None
) -> Iterator[tuple[int, T | DataError]]:
    for number, row in each_row(path, check_json):
        if isinstance(row, DataError):
            yield number, row
            continue
        try:
            yield number, parse(row)
        except DataError as error:
            yield number, error


def _class_names(path: Path) -> Mapping[str, list[str]]:
    """What the numbers of a column of labels mean, as Hugging Face's `datasets` writes it into parquet files."""
    try:
        import pyarrow.parquet as pq
    except ImportError:  # told by the reader of the rows
        return {}
    try:
        metadata = pq.read_schema(path).metadata or {}
        features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    except (OSError, ValueError, AttributeError):  # compressed once more, damaged, or written by something else
        return {}
    named = {key: feature.get("names") for key, feature in features.items() if isinstance(feature, dict)}
    return {key: names for key, names in named.items() if isinstance(names, list)}


def _named(value: Any, names: list[str] | None) -> Any:
    is_place = names is not None and isinstance(value, int) and 0 <= value < len(names)
    return names[value] if is_place and names is not None else value


def _json_rows(
    stream: IO[bytes], check_json: Callable[[bytes], None] | None
) -> Iterator[tuple[int, Mapping[str, Any] | DataError]]:
    """Of JSON Lines, or of one array of objects, which may have line breaks anywhere."""
    number, num_bytes, is_begun = 0, 0, False
    while line := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        num_bytes += len(line)
        if check_json is not None and (number > MAX_LINES or num_bytes > MAX_UNPACKED_BYTES):
            yield number, BrokenOffError(TOO_MUCH)
            return
        start = (line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line).strip()
        if start[:1] == b"[" and not is_begun:
            rest = stream.read(-1 if check_json is None else MAX_ARRAY_BYTES + 1)
            if check_json is not None and len(line) + len(rest) > MAX_ARRAY_BYTES:
                yield (
                    number,
                    BrokenOffError(f"an array of more than {MAX_ARRAY_BYTES >> 20} MiB; write one object per line"),
                )
                return
            if check_json is not None:
                check_json(line + rest)
            if (rows := _array(line if number > 1 else line.removeprefix(b"\xef\xbb\xbf"), rest)) is not None:
                yield from enumerate(rows, 1)
                return
            stream = io.BytesIO(rest)
        is_begun = is_begun or bool(start)
        if len(line) > MAX_LINE_BYTES:
            yield number, DataError(f"longer than {MAX_LINE_BYTES >> 20} MiB; is this file JSON Lines? Shorten it")
            while line and not line.endswith(b"\n") and num_bytes <= MAX_UNPACKED_BYTES:
                line = stream.readline(MAX_LINE_BYTES)
                num_bytes += len(line)
        elif start:
            try:
                if check_json is not None:
                    check_json(line)
                yield number, _object(line, is_first=number == 1)
            except DataError as error:
                yield number, error


def _array(start: bytes, rest: bytes) -> list[Mapping[str, Any]] | None:
    """The objects of a JSON array; None for anything else."""
    try:
        value = json.loads(start + rest, parse_constant=_refuse_constant, object_pairs_hook=_object_of)
    except (ValueError, RecursionError):
        return None
    is_array = isinstance(value, list) and value and all(isinstance(each, dict) for each in value)
    return value if is_array else None


def _object(line: bytes, *, is_first: bool) -> Mapping[str, Any]:
    try:
        text = line.decode("utf-8-sig" if is_first else "utf-8")
        value = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_object_of)
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


def _object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Raises DataError for a name that is given twice: which of its values is meant, nobody knows."""
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        name = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise DataError(f"names {name[:64]!r} twice in one object; leave one out")
    return found


def _refuse_constant(name: str) -> float:
    raise DataError(f"{name} is not valid JSON; use a number or null")

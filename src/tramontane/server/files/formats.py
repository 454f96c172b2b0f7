"""What a file must hold for its purpose, checked line by line when it is uploaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tramontane.data.sample_files import MAX_ARRAY_BYTES, MAX_LINE_BYTES, FileCheck, check_file
from tramontane.data.sample_notes import SampleNotes
from tramontane.data.sample_shapes import SampleKind, parse_row, shape_of
from tramontane.errors import DataError
from tramontane.server.batch.request_line import UniqueIds, parse_request_line
from tramontane.server.body_bounds import BodyBounds
from tramontane.server.errors import ApiError, invalid_lines

PURPOSES = ("fine-tune", "batch", "ocr", "audio", "assistants", "user_data", "vision", "evals")
MAX_INVALID_SHARE = 0.5
"""A fine-tuning job may skip up to this share of its samples; a file with more of them is of no use to any job."""
MAX_BATCH_LINES = 1_000_000
SHOWN_PROBLEMS = 20
LINE_BOUNDS = BodyBounds(MAX_LINE_BYTES, MAX_LINE_BYTES)
ARRAY_BOUNDS = BodyBounds(MAX_ARRAY_BYTES, MAX_ARRAY_BYTES, max_values=1_000_000, max_objects=500_000)


@dataclass(frozen=True, slots=True)
class Format:
    """What was found in a file."""

    sample_type: str
    num_lines: int | None = None
    mimetype: str | None = None


def check_format(path: Path, purpose: str) -> Format:
    """Raises ApiError 422 listing the first lines that are wrong."""
    if purpose == "fine-tune":
        parser = _SampleParser()
        check = check_file(path, parser, max_problems=SHOWN_PROBLEMS, check_json=check_line)
        if check.is_unsound(MAX_INVALID_SHARE):
            raise refusal(check)
        return Format(parser.sample_type, check.num_lines, "application/jsonl")
    if purpose == "batch":
        ids = UniqueIds()

        def parse(value: Mapping[str, Any]) -> None:
            ids.take(parse_request_line(value))
            if ids.num_lines > MAX_BATCH_LINES:
                raise DataError(f"a batch has at most {MAX_BATCH_LINES} requests")

        check = check_file(path, parse, max_problems=SHOWN_PROBLEMS, check_json=check_line)
        if check.is_unsound(0.0):
            raise refusal(check)
        return Format("batch_request", check.num_valid, "application/jsonl")
    return Format("instruct")


def check_line(line: bytes) -> None:
    """Raises DataError for more values than a line of any use has, before they are parsed."""
    bounds = ARRAY_BOUNDS if line.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"[" else LINE_BOUNDS
    try:
        bounds.check(line)
    except ApiError as error:
        raise DataError(error.message.replace("the body", "the line")) from None


class _SampleParser:
    """The kind of the first sample is that of the file."""

    def __init__(self) -> None:
        self.sample_type = "instruct"
        self._kind: SampleKind | None = None

    def __call__(self, row: Mapping[str, Any]) -> None:
        is_first = self._kind is None
        if is_first:
            self._kind = shape_of(row).kind
        if isinstance(parse_row(row, self._kind, SampleNotes()), str) and is_first:
            self.sample_type = "pretrain"


def refusal(check: FileCheck, param: str = "file", place: str = "file", *, unit: str = "line") -> ApiError:
    """422 that lists the first problems; the message says where the first is: `unit` so and so of `place`."""
    first = check.problems[0]
    more = f" ({check.num_invalid} are invalid in all)" if check.num_invalid > 1 else ""
    message = f"{place}: {unit} {first.line}: {first.message}{more}"
    return invalid_lines(message, param, [(problem.line, problem.message) for problem in check.problems])

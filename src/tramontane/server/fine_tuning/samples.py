"""The samples of a job: its files one after the other in one file of its own, so that nothing that happens to the files
it was made from can change it. How often each is seen, by its weight, is told beside it: nothing is copied for that."""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tramontane import durable
from tramontane.data.sample_files import each_row, is_json_lines
from tramontane.errors import DataError
from tramontane.server.errors import ApiError
from tramontane.server.files.files import Files, Reader

MAX_PASSES = 10


@dataclass(frozen=True, slots=True)
class Part:
    """`num_lines` lines of the joined file, from `first_line` (from 1) on, are those of one file."""

    file_id: str
    first_line: int
    num_lines: int


def repeats_path(target: Path) -> Path:
    """Beside a joined file, `[number of lines, times]` of each part in order: what `finetune --repeats` reads."""
    return target.with_suffix(".repeats.json")


def times_of(weights: Sequence[float]) -> tuple[int, list[int]]:
    """(k, times of each file): a file of weight w is seen about k * w times, once at least, so that an epoch over all
    of them is k epochs of the files. k is the smallest that serves all weights to a percent, or else the best."""
    best = (float("inf"), 1)
    for k in range(1, MAX_PASSES + 1):
        error = max(abs(max(1, round(k * weight)) / (k * weight) - 1) for weight in weights)
        if error < best[0] - 0.01:
            best = (error, k)
    k = best[1]
    return k, [max(1, round(k * weight)) for weight in weights]


def join_files(files: Files, reader: Reader, weights: Mapping[str, float], target: Path, param: str) -> None:
    """Write the samples of the files into `target`, and beside it whose the lines are. Raises ApiError 404 for a file
    that is not there, 422 for one that is no file of samples."""
    k, times = times_of(list(weights.values()))
    parts: list[Part] = []
    first_line = 1
    with durable.file(target) as joining, joining.open("wb") as out:
        for file_id in weights:
            row = files.get(file_id, reader)
            if row.purpose != "fine-tune":
                raise ApiError(
                    422, f"{param}: file {file_id} is for {row.purpose}; upload it with purpose fine-tune", param=param
                )
            with files.contents.local(file_id) as path:
                num_lines = _append(path, out)
            parts.append(Part(file_id, first_line, num_lines))
            first_line += num_lines
    repeats = [[part.num_lines, each] for part, each in zip(parts, times, strict=True)]
    durable.write(repeats_path(target), json.dumps(repeats))
    joined = {"num_passes": k, "parts": [[part.file_id, part.first_line, part.num_lines] for part in parts]}
    durable.write(_parts_path(target), json.dumps(joined))


def num_passes(target: Path) -> int:
    """How many epochs of the files one epoch of their joined file is: k of `times_of`."""
    return int(_read(target)["num_passes"])


def place_of(target: Path, line: int) -> tuple[str | None, int]:
    """(file, line in it) of a line of a joined file, both from 1."""
    for row in _read(target)["parts"]:
        part = Part(*row)
        if part.first_line <= line < part.first_line + part.num_lines:
            return part.file_id, line - part.first_line + 1
    return None, line


def _append(path: Path, out: IO[bytes]) -> int:
    """Copy a file as JSON Lines, ending its last line; returns their number."""
    num_lines, ends = 0, True
    if not is_json_lines(path):
        for _, row in each_row(path):
            out.write(json.dumps(None if isinstance(row, DataError) else row, ensure_ascii=False).encode() + b"\n")
            num_lines += 1
        return num_lines
    with path.open("rb") as source:
        if source.read(len(BOM_UTF8)) != BOM_UTF8:  # in the midst of a file it would be a character
            source.seek(0)
        while block := source.read(1 << 20):
            num_lines += block.count(b"\n")
            ends = block.endswith(b"\n")
            out.write(block)
    if not ends:
        out.write(b"\n")
        num_lines += 1
    return num_lines


def _parts_path(target: Path) -> Path:
    return target.with_suffix(".parts.json")


def _read(target: Path) -> dict[str, Any]:
    joined: dict[str, Any] = json.loads(_parts_path(target).read_text("utf-8"))
    return joined

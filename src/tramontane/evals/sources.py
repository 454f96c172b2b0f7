"""Evaluation files by name: from a local folder, or fetched from the Hugging Face hub."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tramontane.errors import DataError
from tramontane.extras import install_hint

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sources:
    """Where files are found: below `data` (or its folder `eval`) where that is given, else on the hub."""

    data: Path | None = None

    def files(self, local: str, hub: str | None) -> dict[str, Path]:
        """Files that match the glob `local` below the folder, or `hub` (see data.hub_files), by name, sorted.

        Raises DataError where there is none.
        """
        if self.data is None:
            if hub is None:
                raise DataError(f"{local} is on no hub; give the folder that holds it with --data")
            from tramontane.data.hub_files import fetch_hub_files

            return fetch_hub_files(hub)
        for root in (self.data, self.data / "eval"):
            found = sorted(path for path in root.glob(local) if path.is_file())
            if found:
                return {str(path.relative_to(root)): path for path in found}
        raise DataError(f"{self.data}: holds no {local}; give another folder with --data, or none to use the hub")

    def rows(self, local: str, hub: str | None) -> Iterator[tuple[str, Row]]:
        """(stem of the file, record) of every record of JSON lines, CSV or Parquet files; `.gz` is unpacked."""
        for name, path in self.files(local, hub).items():
            stem = Path(name).name.split(".")[0]
            for row in read_rows(path):
                yield stem, row

    def text(self, local: str, hub: str | None = None) -> str:
        """Text of all matching files, end to end."""
        return "".join(_text(path) for path in self.files(local, hub).values())


def file_name(path: Path) -> str:
    """The name of a file with the beginning of its SHA-256, so that a file that was changed counts as another one."""
    with path.open("rb") as file:
        return f"{path.name} ({hashlib.file_digest(file, 'sha256').hexdigest()[:12]})"


def read_rows(path: Path) -> Iterator[Row]:
    """Records of one file. Raises DataError naming file and line."""
    if path.suffix == ".parquet":
        try:
            from pyarrow import parquet
        except ImportError:
            raise DataError(f"{path.name}: Parquet files need the package pyarrow; {install_hint('data')}") from None
        yield from parquet.read_table(path).to_pylist()
        return
    text = _text(path)
    if path.name.removesuffix(".gz").endswith(".csv"):
        csv.field_size_limit(2**24)
        yield from csv.DictReader(io.StringIO(text, newline=""))
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}:{number}: not a JSON object ({error})") from None
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number}: not a JSON object")
        yield row


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: not UTF-8 text ({error})") from None

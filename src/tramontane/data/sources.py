"""Files of any common kind as a stream of records, never more than one row in memory (JSON arrays excepted).

Formats go by suffix: txt, md, html, jsonl, json, csv, tsv, parquet, toml; each may be compressed (gz, bz2, xz, zst)
or a member of a tar archive. Paths outside the data folder are refused.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from tramontane.data.html_text import html_to_text
from tramontane.data.hub_files import PREFIX, fetch_hub_files
from tramontane.data.recipe import SourceRecipe
from tramontane.data.record import Origin, Record
from tramontane.data.strict_toml import parse_toml
from tramontane.errors import DataError
from tramontane.extras import install_hint

MAX_LINE_BYTES = 64 * 2**20
MAX_TEXT_BYTES = 512 * 2**20  # of one text, markdown or HTML file without `split_on`
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
_TEXT = (".txt", ".md")


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file to read and its name in origins and errors."""

    path: Path
    shown: str


def expand(source: SourceRecipe, folder: Path) -> list[SourceFile]:
    """Files of a source in a fixed order. Raises DataError for a glob that matches nothing or leaves `folder`."""
    found: dict[Path, SourceFile] = {}
    for pattern in source.paths:
        if pattern.startswith(PREFIX):
            named = fetch_hub_files(pattern)
            address = "/".join(pattern.split("/")[:5])
            files = [SourceFile(path, f"{address}/{name}") for name, path in named.items()]
        elif Path(pattern).is_absolute() or ".." in Path(pattern).parts:
            raise DataError(f"source {source.name}: {pattern!r} must stay inside the data folder")
        else:
            matches = sorted(path for path in folder.glob(pattern) if path.is_file())
            files = [SourceFile(path, path.relative_to(folder).as_posix()) for path in matches]
        if not files:
            raise DataError(f"source {source.name}: {pattern!r} matches no file under {folder}")
        for file in files:
            found.setdefault(file.path, file)
    return list(found.values())


def read_records(source: SourceRecipe, folder: Path) -> Iterator[Record]:
    """All records of a source, file after file. Raises DataError naming file and line."""
    for file in expand(source, folder):
        yield from read_file(file.path, file.shown, source.name, source.split_on)


def read_file(path: Path, shown: str, source: str, split_on: str | None = None) -> Iterator[Record]:
    """Records of one file; `shown` is its name in origins and errors."""
    try:
        with path.open("rb") as raw:
            yield from _read_stream(raw, path.name, shown, source, split_on)
    except (OSError, EOFError, lzma.LZMAError, tarfile.TarError) as error:
        raise DataError(f"{shown}: cannot be read ({error}); is it damaged?") from None


@contextmanager
def decompressed_file(path: Path, shown: str) -> Iterator[tuple[IO[bytes], str]]:
    """The bytes of a file, decompressed where its name or its first bytes say so, and the suffix of what is in it.
    Raises DataError for a damaged file, or one that needs a package that is not there."""
    name = PurePosixPath(path.name)
    try:
        with path.open("rb") as raw:
            is_gzip = raw.peek(2)[:2] == b"\x1f\x8b"
            if name.suffix not in _COMPRESSED and not is_gzip:
                yield raw, name.suffix.lower()
                return
            inner = name.with_suffix("") if name.suffix in _COMPRESSED else name
            with _decompressed(raw, name.suffix if name.suffix in _COMPRESSED else ".gz", shown) as opened:
                yield opened, inner.suffix.lower()
    except FileNotFoundError:
        raise DataError(f"{shown}: there is no such file") from None
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise DataError(f"{shown}: cannot be read ({error}); is it damaged?") from None


def _read_stream(raw: IO[bytes], name: str, shown: str, source: str, split_on: str | None) -> Iterator[Record]:
    inner = PurePosixPath(name)
    if inner.suffix in _COMPRESSED:
        with _decompressed(raw, inner.suffix, shown) as opened:
            if inner.with_suffix("").suffix == ".tar":
                yield from _read_tar(opened, shown, source, split_on)
            else:
                yield from _parse(opened, inner.with_suffix("").suffix, shown, source, split_on)
    elif inner.suffix == ".tar":
        yield from _read_tar(raw, shown, source, split_on)
    else:
        yield from _parse(raw, inner.suffix, shown, source, split_on)


class _ZstdFrames(io.RawIOBase):
    """All frames of a .zst file; the package's own reader ends after the first, and in the middle of a cut one."""

    def __init__(self, raw: IO[bytes], begin: Callable[[], Any]) -> None:
        self._raw, self._begin = raw, begin
        self._frame: Any = None
        self._rest = self._text = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._text:
            block = self._rest or self._raw.read(1 << 16)
            self._rest = b""
            if not block and self._frame is not None:
                raise EOFError("it ends in the middle of a frame")
            if not block:
                return 0
            self._frame = self._frame or self._begin()
            self._text = self._frame.decompress(block)
            if self._frame.eof:
                self._rest, self._frame = self._frame.unused_data, None
        given = min(len(buffer), len(self._text))
        buffer[:given], self._text = self._text[:given], self._text[given:]
        return given


@contextmanager
def _decompressed(raw: IO[bytes], suffix: str, shown: str) -> Iterator[IO[bytes]]:
    if suffix == ".zst":
        try:
            import zstandard
        except ImportError:
            raise DataError(f"{shown}: reading .zst needs the package zstandard; {install_hint('data')}") from None
        try:
            yield io.BufferedReader(_ZstdFrames(raw, zstandard.ZstdDecompressor().decompressobj))
        except zstandard.ZstdError as error:
            raise DataError(f"{shown}: cannot be read ({error}); is it damaged?") from None
        return
    openers: dict[str, Callable[[IO[bytes]], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    with openers[suffix](raw) as opened:
        yield opened


def _read_tar(raw: IO[bytes], shown: str, source: str, split_on: str | None) -> Iterator[Record]:
    """Members in archive order; nothing is extracted, so names in the archive can do no harm."""
    with tarfile.open(fileobj=raw, mode="r|") as archive:
        for member in archive:
            opened = archive.extractfile(member) if member.isfile() else None
            if opened is not None:
                yield from _read_stream(opened, member.name, f"{shown}!{member.name}", source, split_on)


def _parse(raw: IO[bytes], suffix: str, shown: str, source: str, split_on: str | None) -> Iterator[Record]:
    suffix = suffix.lower()
    if suffix in _TEXT and split_on is not None:
        rows: Iterator[Any] = ({"text": text} for text in _split_text(raw, split_on, shown))
    elif suffix in _TEXT:
        rows = iter([{"text": _whole_text(raw, shown)}])
    elif suffix in (".html", ".htm"):
        rows = iter([html_to_text(_whole_text(raw, shown))])
    elif suffix == ".jsonl":
        rows = _json_lines(raw, shown)
    elif suffix == ".json":
        rows = _json_file(raw, shown)
    elif suffix in (".csv", ".tsv"):
        rows = _csv_rows(raw, shown, "\t" if suffix == ".tsv" else ",")
    elif suffix == ".toml":
        rows = iter([parse_toml(_whole_text(raw, shown), shown)])
    elif suffix == ".parquet":
        rows = _parquet_rows(raw, shown)
    else:
        raise DataError(
            f"{shown}: files of kind {suffix or 'without suffix'} are not read; "
            "use txt, md, html, jsonl, json, csv, tsv, parquet or toml, also compressed or in tar archives"
        )
    for number, fields in enumerate(rows, 1):
        if fields:  # a blank line keeps its number and gives no record
            yield Record(fields, Origin(source, shown, number))


def _decode(data: bytes, shown: str, line: int | None = None) -> str:
    try:
        return data.decode("utf-8-sig" if line in (None, 1) else "utf-8")
    except UnicodeDecodeError as error:
        place = f"{shown}:{line}" if line else shown
        raise DataError(f"{place}: byte {error.start} is not UTF-8; convert the file to UTF-8") from None


def _whole_text(raw: IO[bytes], shown: str) -> str:
    data = raw.read(MAX_TEXT_BYTES + 1)
    if len(data) > MAX_TEXT_BYTES:
        raise DataError(f"{shown}: larger than {MAX_TEXT_BYTES >> 20} MiB in one document; split it or set split_on")
    return _decode(data, shown)


def _split_text(raw: IO[bytes], split_on: str, shown: str) -> Iterator[str]:
    """Documents of a text file between lines-or-inline separators, read in blocks."""
    separator, rest = split_on.encode("utf-8"), b""
    while block := raw.read(2**20):
        *documents, rest = (rest + block).split(separator)
        if len(rest) > MAX_TEXT_BYTES:
            raise DataError(f"{shown}: no {split_on!r} within {MAX_TEXT_BYTES >> 20} MiB")
        for document in documents:
            yield _decode(document, shown)
    yield _decode(rest, shown)


def _json_lines(raw: IO[bytes], shown: str) -> Iterator[dict[str, Any]]:
    number = 0
    while line := raw.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            raise DataError(f"{shown}:{number}: line longer than {MAX_LINE_BYTES >> 20} MiB; is this JSON Lines?")
        if not line.strip():
            yield {}
            continue
        yield _json_object(_decode(line, shown, number), f"{shown}:{number}")


def _json_object(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{where}: not valid JSON ({error}); write one JSON object per line") from None
    if not isinstance(value, dict):
        raise DataError(f"{where}: a JSON {type(value).__name__} where an object was expected")
    return value


def _json_file(raw: IO[bytes], shown: str) -> Iterator[dict[str, Any]]:
    """A JSON array of objects, one object, or JSON lines under the wrong suffix."""
    text = _whole_text(raw, shown)
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        yield from _json_lines(io.BytesIO(text.encode("utf-8")), shown)
        return
    for number, item in enumerate(value if isinstance(value, list) else [value], 1):
        if not isinstance(item, dict):
            raise DataError(f"{shown}:{number}: a JSON {type(item).__name__} where an object was expected")
        yield item


def _csv_rows(raw: IO[bytes], shown: str, delimiter: str) -> Iterator[dict[str, Any]]:
    text = io.TextIOWrapper(raw, encoding="utf-8-sig", newline="")
    try:
        reader = csv.DictReader(text, delimiter=delimiter, strict=True)
        for row in reader:
            if None in row or None in row.values():
                raise DataError(f"{shown}:{reader.line_num}: number of cells differs from the header's")
            yield row
    except UnicodeDecodeError as error:
        raise DataError(f"{shown}: byte {error.start} is not UTF-8; convert the file to UTF-8") from None
    except csv.Error as error:
        raise DataError(f"{shown}:{reader.line_num}: {error}") from None
    finally:
        text.detach()


def _parquet_rows(raw: IO[bytes], shown: str) -> Iterator[dict[str, Any]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise DataError(f"{shown}: reading parquet needs the package pyarrow; {install_hint('data')}") from None
    seekable = raw if raw.seekable() else io.BytesIO(raw.read())
    try:
        for batch in pq.ParquetFile(seekable).iter_batches(batch_size=256):
            yield from batch.to_pylist()
    except pa.ArrowException as error:
        raise DataError(f"{shown}: cannot be read ({error}); is it damaged?") from None

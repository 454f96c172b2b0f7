"""SHA-256 of large files, computed once: a record beside the cache tells an unchanged file by its stamp."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path

from tramontane import durable
from tramontane.config import read_json
from tramontane.errors import ConfigError

Stamp = list[int]


def stamp_of(path: Path) -> Stamp:
    """Changes whenever the file does: device, inode, size, and times of change, which no program can set back."""
    status = path.stat()
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def file_digest(path: Path, records: Path) -> str:
    """Hexadecimal SHA-256 of the content of `path`; remembered in the folder `records`, where that can be written."""
    path = path.resolve()
    record = records / f"{hashlib.sha256(os.fsencode(path)).hexdigest()}.json"
    found = stamp_of(path)
    known = read_record(record)
    if known is not None and known[0] == found:
        return known[1]
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if stamp_of(path) == found:  # else it is being written; what was read is of no use later
        with suppress(OSError):
            write_record(record, found, digest)
    return digest


def read_record(record: Path) -> tuple[Stamp, str] | None:
    """(stamp, digest) of a record; None if there is none, or it is not one."""
    try:
        fields = read_json(record)
    except ConfigError:
        return None
    found, digest = fields.get("stamp"), fields.get("sha256")
    if not isinstance(found, list) or not all(type(n) is int for n in found) or not isinstance(digest, str):
        return None
    return found, digest


def write_record(record: Path, found: Stamp, digest: str) -> None:
    """Raises OSError if it cannot be written."""
    durable.make_folder(record.parent)
    durable.write(record, json.dumps({"stamp": found, "sha256": digest}))

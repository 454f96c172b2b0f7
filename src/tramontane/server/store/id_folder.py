"""IdFolder: a folder, or a prefix of an object store, whose entries are named by the ids of rows, with a trash.

What no row knows is never deleted: it may be what a crash has left, or the database may be the wrong one. It is moved
to `trash/DAY/` of the same folder, from where `restore` brings back what a row knows.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from tramontane import durable

log = logging.getLogger(__name__)

ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")
ORPHAN_AGE_S = 3600.0
"""What has no row is left by a server that died between the two; what is younger may still get its row."""
TRASH = "trash"
DAY = re.compile(r"\d{4}-\d\d-\d\d\Z")
DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Entry:
    path: str
    modified: float  # seconds since 1970
    size_bytes: int  # of a file


class IdFolder:
    """Entries are files or folders: ROOT/ID, or, with `is_sharded`, ROOT/FIRST TWO DIGITS/ID. `what` names one of them
    in the log."""

    def __init__(self, fs: AbstractFileSystem, root: str, *, what: str, is_sharded: bool) -> None:
        self.fs = fs
        self.root = root.rstrip("/")
        self.what = what
        self.is_sharded = is_sharded
        self.is_local = isinstance(fs, LocalFileSystem)

    @property
    def name(self) -> str:
        """What the user knows it as; never with a password in it."""
        return self.root if self.is_local else str(self.fs.unstrip_protocol(self.root))

    def path(self, entry_id: str) -> str:
        if not ID.match(entry_id):
            raise ValueError("not an id of this folder")
        return f"{self.root}/{entry_id[:2]}/{entry_id}" if self.is_sharded else f"{self.root}/{entry_id}"

    def entries(self) -> dict[str, Entry]:
        """By id; not those in the trash."""
        found = self._listed(self.root, 2 if self.is_sharded else 1).items()
        named = ((path.rsplit("/", 1)[-1], path, info) for path, info in found)
        return {
            name: Entry(path, _modified(info), int(info.get("size") or 0))
            for name, path, info in named
            if ID.match(name) and path == self.path(name)
        }

    def sweep(self, known: Collection[str], *, age_s: float = ORPHAN_AGE_S, day: str | None = None) -> int:
        """Move entries whose id is not `known`, older than `age_s`, to the trash of `day` (None: today); how many."""
        place = f"{self.root}/{TRASH}/{day or datetime.now(UTC).date().isoformat()}"
        old = time.time() - age_s
        num_moved = 0
        for entry_id, entry in self.entries().items():
            if entry_id not in known and entry.modified < old:
                with suppress(FileNotFoundError, FileExistsError):  # another server sweeps too; it came back in a day
                    self._move(entry.path, f"{place}/{entry_id}")
                    num_moved += 1
        if num_moved:
            log.warning("%d %s without a row in the database went to %s", num_moved, self.what, place)
        return num_moved

    def trashed(self) -> dict[str, str]:
        """Paths in the trash by id; of several with one id, the newest."""
        found = sorted(self._listed(f"{self.root}/{TRASH}", 2))
        return {path.rsplit("/", 1)[-1]: path for path in found if ID.match(path.rsplit("/", 1)[-1])}

    def restore(self, wanted: Collection[str]) -> int:
        """Move what is `wanted` and in the trash back to its place, unless that is taken; how many."""
        num_moved = 0
        for entry_id, path in self.trashed().items():
            if entry_id in wanted:
                with suppress(FileExistsError):
                    self._move(path, self.path(entry_id))
                    num_moved += 1
        return num_moved

    def empty_trash(self, *, days: int) -> int:
        """Delete what has been in the trash for more than `days`; how many days' worth."""
        last = datetime.fromtimestamp(time.time() - days * DAY_S, UTC).date().isoformat()
        num_removed = 0
        for path in self._listed(f"{self.root}/{TRASH}", 1):
            day = path.rsplit("/", 1)[-1]
            if DAY.match(day) and day < last:
                with suppress(FileNotFoundError):
                    self.fs.rm(path, recursive=True)
                    num_removed += 1
                    log.warning("the trash of %s was emptied after %d days: %s", day, days, path)
        return num_removed

    def _listed(self, root: str, depth: int) -> Mapping[str, dict[str, Any]]:
        self.fs.invalidate_cache()
        try:
            listed: dict[str, dict[str, Any]] = self.fs.find(root, maxdepth=depth, withdirs=True, detail=True)
        except FileNotFoundError:
            return {}
        return listed

    def _move(self, source: str, target: str) -> None:
        """Raises FileExistsError where there is something already."""
        if self.is_local:
            durable.make_folder(Path(target).parent, 0o700)
            durable.transfer(Path(source), Path(target))
            return
        if self.fs.exists(target):
            raise FileExistsError(target)
        self.fs.mv(source, target, recursive=True)


def _modified(info: Mapping[str, Any]) -> float:
    for name in ("mtime", "LastModified", "created"):
        value = info.get(name)
        if value is not None:
            return float(value.timestamp() if hasattr(value, "timestamp") else value)
    return time.time()

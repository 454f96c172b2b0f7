"""ContentStore: the bytes of files, under random ids in a folder or, through fsspec, an object store."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO

import fsspec

from tramontane import durable
from tramontane.errors import ConfigError
from tramontane.server.store.errors import DiskFullError, may_be_stored
from tramontane.server.store.id_folder import ORPHAN_AGE_S, IdFolder

READING = "reading-"
UNFINISHED = re.compile(r"[0-9a-f-]{36}\.part|reading-.+|tmp\w+")  # the last: of version 0.2.0
NO_ROOM = "the server's disk is full; the file was not stored"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Incoming:
    """Content on its way in, in a file of the local disk; it vanishes unless it is published.

    `write` raises DiskFullError.
    """

    def __init__(self, folder: Path, has_room: Callable[[], bool]) -> None:
        self.id = str(uuid.uuid4())
        self._has_room = has_room
        self.path = folder / f"{self.id}.part"
        self.size_bytes = 0
        self._hash = hashlib.sha256()
        with _disk_full():
            self._file = open(self.path, "xb")  # noqa: SIM115 - closed in `__exit__`

    def write(self, data: bytes) -> None:
        if not self._has_room():
            raise DiskFullError(NO_ROOM)
        with _disk_full():
            self._file.write(data)
        self.size_bytes += len(data)
        self._hash.update(data)

    def flush(self) -> None:
        """After this, the bytes can be read at `path`."""
        with _disk_full():
            self._file.flush()

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def __enter__(self) -> Incoming:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # what a full disk keeps in the buffer; `flush` has told of it
            self._file.close()
        self.path.unlink(missing_ok=True)


class ContentStore:
    """Ids are UUIDs of our own making; no name from outside is ever part of a path."""

    def __init__(self, folder: Path, url: str | None = None, *, has_room: Callable[[], bool] = lambda: True) -> None:
        """Contents lie in `folder`/files, or at the fsspec URL `url`. Nothing is taken in while the disk has not
        `has_room`. Raises ConfigError for a place that cannot be."""
        self._has_room = has_room
        self._incoming = folder / "incoming"
        try:
            self._incoming.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._fs, self._root = fsspec.core.url_to_fs(url or str(folder / "files"))
            self._fs.makedirs(self._root, exist_ok=True)
        except (OSError, ValueError, ImportError) as error:
            raise ConfigError(f"file contents cannot be kept at {url or folder}: {error}") from None
        self.folder = IdFolder(self._fs, self._root, what="contents of files", is_sharded=True)

    def incoming(self) -> Incoming:
        return Incoming(self._incoming, self._has_room)

    def publish(self, incoming: Incoming) -> None:
        """Content becomes readable by its id, whole or not at all. Raises DiskFullError."""
        incoming.flush()
        target = self.folder.path(incoming.id)
        with _disk_full():
            if self.folder.is_local:
                durable.make_folder(Path(target).parent)
                durable.publish(incoming.path, Path(target))
            else:
                self._fs.put_file(str(incoming.path), target)

    @contextlib.contextmanager
    def published(self, *incoming: Incoming) -> Iterator[None]:
        """They are readable by their ids from here on, and gone again if the block, which commits their rows, fails,
        unless the database may have the rows all the same: then they stay, for a sweep to tell.
        """
        try:
            for each in incoming:
                self.publish(each)
            yield
        except BaseException as error:
            if not may_be_stored(error):
                for each in incoming:
                    self.delete(each.id)
            raise

    def open(self, content_id: str) -> IO[bytes]:
        """Raises FileNotFoundError."""
        file: IO[bytes] = self._fs.open(self.folder.path(content_id), "rb")
        return file

    @contextlib.contextmanager
    def local(self, content_id: str) -> Iterator[Path]:
        """A path on this machine's disk where the content can be read meanwhile."""
        if self.folder.is_local:
            yield Path(self.folder.path(content_id))
            return
        with tempfile.TemporaryDirectory(prefix=READING, dir=self._incoming) as folder:
            path = Path(folder) / content_id
            self._fs.get_file(self.folder.path(content_id), str(path))
            yield path

    def delete(self, content_id: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self.folder.path(content_id))

    def sweep_incoming(self, *, age_s: float = ORPHAN_AGE_S) -> int:
        """Remove what uploads cut short have left, which nobody was ever told is stored; how many."""
        old = time.time() - age_s
        num_removed = 0
        for path in self._incoming.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another server sweeps too
                if UNFINISHED.fullmatch(path.name) and path.stat().st_mtime < old:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
                    num_removed += 1
        return num_removed


@contextlib.contextmanager
def _disk_full() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise DiskFullError(NO_ROOM) from None
        raise

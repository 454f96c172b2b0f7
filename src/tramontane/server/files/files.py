"""Files: rows and contents together, seen by their owner alone, or by one key of the owner's alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from sqlalchemy import ColumnElement, and_, delete, or_, select
from sqlalchemy.orm import Session

from tramontane.server.errors import ApiError
from tramontane.server.idempotency.records import Mark, unmarked
from tramontane.server.quotas import NO_QUOTAS, Quotas
from tramontane.server.store.contents import ContentStore, Incoming
from tramontane.server.store.database import Database
from tramontane.server.store.id_folder import ID, IdFolder
from tramontane.server.store.pages import select_page
from tramontane.server.store.tables import BatchJob, File
from tramontane.server.store.tie import Rows

WORKSPACE = "workspace"
VISIBILITIES = (WORKSPACE, "user")
"""Who sees a file: all keys of its owner, or the one key it came with."""
MIMETYPES = {
    ".jsonl": "application/jsonl",
    ".json": "application/json",
    ".pdf": "application/pdf",
    ".txt": "text/plain",
}


class Reader(Protocol):
    """Who wants a file: a caller, or a job on behalf of one."""

    @property
    def owner(self) -> str: ...
    @property
    def key_id(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Listing:
    """Which files to list. `after` is OpenAI's cursor, `page` Mistral's number from 0."""

    page: int = 0
    page_size: int = 100
    after: str | None = None
    is_ascending: bool = False
    purpose: str | None = None
    sample_types: Sequence[str] = ()
    sources: Sequence[str] = ()
    mimetypes: Sequence[str] = ()
    search: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    files: list[File] = field(default_factory=list)
    total: int = 0
    has_more: bool = False


class Files:
    """Waits for the disk: call it from other threads than the event loop's."""

    def __init__(self, database: Database, contents: ContentStore, quotas: Quotas = NO_QUOTAS) -> None:
        self.database = database
        self.contents = contents
        self.quotas = quotas

    def add(self, incoming: Incoming, row: File, mark: Mark = unmarked) -> File:
        """Content first, then its row: once this returns, no crash loses either. Before, neither is there. Raises
        ApiError beyond a quota."""
        row.id, row.size_bytes, row.signature = incoming.id, incoming.size_bytes, incoming.sha256
        with self.contents.published(incoming), self.database.write() as session:
            self.quotas.require(session, row.owner, row.key_id, max_files=1, max_stored_bytes=row.size_bytes)
            session.add(row)
            mark(session, row.id)
        return row

    def require_room(self, reader: Reader, num_bytes: int) -> None:
        """Raises ApiError where a file of so many bytes would go over a quota: before it is taken in."""
        with self.database.read() as session:
            added = {"max_files": 1, "max_stored_bytes": num_bytes}
            self.quotas.require(session, reader.owner, reader.key_id, **added)

    def get(self, file_id: str, reader: Reader) -> File:
        """Raises ApiError 404 for a file that is not there, or not for this reader."""
        with self.database.read() as session:
            return find_file(session, file_id, reader)

    def get_signed(self, file_id: str) -> File | None:
        """Whoever's it is: for links, whose signature is checked by the caller."""
        if not ID.match(file_id):
            return None
        with self.database.read() as session:
            return session.scalar(select(File).where(File.id == file_id, _is_live()))

    def list(self, reader: Reader, listing: Listing) -> Page:
        conditions = [_is_seen_by(reader), _is_live()]
        if listing.purpose is not None:
            conditions.append(File.purpose == listing.purpose)
        for column, values in (
            (File.sample_type, listing.sample_types),
            (File.source, listing.sources),
            (File.mimetype, listing.mimetypes),
        ):
            if values:
                conditions.append(column.in_(values))
        if listing.search:
            conditions.append(File.filename.icontains(listing.search, autoescape=True))
        with self.database.read() as session:
            start = None if listing.after is None else find_file(session, listing.after, reader)
            return Page(
                *select_page(
                    session,
                    File,
                    conditions,
                    page=listing.page,
                    page_size=listing.page_size,
                    start=start,
                    is_ascending=listing.is_ascending,
                )
            )

    def delete(self, file_id: str, reader: Reader) -> None:
        """The row first: a crash in between leaves content without a row, which the next sweep moves to the trash."""
        self.database.free(lambda session: session.delete(find_file(session, file_id, reader)))
        self.contents.delete(file_id)

    def sweep(self) -> None:
        """Remove expired files, and what crashes have left behind."""
        for file_id in self.database.free(_delete_expired):
            self.contents.delete(file_id)
        self.contents.sweep_incoming()
        self.entries.sweep(self.rows().known)

    @property
    def entries(self) -> IdFolder:
        return self.contents.folder

    def rows(self) -> Rows:
        """Of files, and of batches, whose requests are kept as contents until they have ended."""
        with self.database.read() as session:
            files = {row.id: row.size_bytes for row in session.execute(select(File.id, File.size_bytes))}
            query = select(BatchJob.requests_id, BatchJob.requests_bytes, BatchJob.completed_at)
            requests = session.execute(query).all()
        unfinished = {row.requests_id: row.requests_bytes or None for row in requests if row.completed_at is None}
        return Rows(frozenset((*files, *(row.requests_id for row in requests))), files | unfinished)


def find_file(session: Session, file_id: str, reader: Reader) -> File:
    """Raises ApiError 404."""
    if ID.match(file_id):
        found = session.scalar(select(File).where(File.id == file_id, _is_seen_by(reader), _is_live()))
        if found is not None:
            return found
    raise ApiError(404, "file does not exist", param="file_id", code="file_not_found")


def _delete_expired(session: Session) -> Sequence[str]:
    """Ids of the rows."""
    is_expired = File.expires_at <= time.time()
    expired = session.scalars(select(File.id).where(is_expired)).all()
    session.execute(delete(File).where(is_expired))
    return expired


def guess_mimetype(filename: str) -> str | None:
    return MIMETYPES.get(Path(filename).suffix.lower())


def _is_seen_by(reader: Reader) -> ColumnElement[bool]:
    return and_(File.owner == reader.owner, or_(File.visibility == WORKSPACE, File.key_id == reader.key_id))


def _is_live() -> ColumnElement[bool]:
    return or_(File.expires_at.is_(None), File.expires_at > time.time())

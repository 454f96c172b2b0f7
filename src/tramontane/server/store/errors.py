"""What can be wrong with the store of a running server."""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from tramontane.errors import CapacityError, TramontaneError

FULL = frozenset(("SQLITE_FULL", "SQLITE_IOERR_SHMSIZE", "53100"))  # SQLite's names, and PostgreSQL's SQLSTATE
DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "XX001", "XX002")


class DiskFullError(CapacityError):
    """There is no room; nothing was stored."""


class StoreError(TramontaneError):
    """The database is damaged or cannot be reached; the message says what to do."""


def may_be_stored(error: BaseException) -> bool:
    """Whether a transaction that ended so may have been committed: a connection can break after that was asked for."""
    return isinstance(error, (StoreError, DBAPIError)) and not isinstance(error, IntegrityError)


def explain(error: DBAPIError) -> TramontaneError | None:
    """What the user is told of a failure of the database; None if it is a fault of ours."""
    code = getattr(error.orig, "sqlite_errorname", None) or getattr(error.orig, "sqlstate", None) or ""
    if code in FULL:
        return DiskFullError("the disk of the server's database is full; nothing was stored")
    if code.startswith(DAMAGED):
        return StoreError("the server's database is damaged; stop the server and put a backup in its place")
    if code.startswith("SQLITE_IOERR") or code in ("SQLITE_CANTOPEN", "SQLITE_READONLY"):
        return StoreError("the server's database cannot be read or written; look after its disk")
    if error.connection_invalidated or (isinstance(error, OperationalError) and not code):
        return StoreError("the server's database cannot be reached; try again later")
    return None

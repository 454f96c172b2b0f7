"""IdempotencyRecords: what requests with a key have come to.

A request that makes something first claims its key (a row), then writes, in the transaction that makes the object, the
object's id beside the key, then its answer. So a crash anywhere leaves one of three: a claim that nobody renews, which
the next attempt takes over, with nothing made; an object whose answer is made again of it; an answer, to be repeated.
An attempt that was only slow and lost its claim cannot write the id, and with it not the object.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import ColumnElement, delete, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from tramontane.server.errors import ApiError
from tramontane.server.store.database import Database
from tramontane.server.store.tables import IdempotencyRecord

KEEP_S = 25 * 3600.0
"""How long a key is known; a day is promised."""
RELEASED = ""
"""In the place of an attempt: there is none any more."""

LOST = "idempotency_lost"

Mark = Callable[[Session, str], None]
"""Called in the transaction that makes an object, with its id."""


def unmarked(session: Session, object_id: str) -> None:
    """The Mark of what is made without a key."""


@dataclass(frozen=True, slots=True)
class Claim:
    """`name` stands for owner, route and key; `digest` for the request, `attempt` for who handles it."""

    name: str
    digest: bytes
    attempt: str


class IdempotencyRecords:
    """Waits for the disk: call it from other threads than the event loop's."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def claim(self, claim: Claim, *, given_up: tuple[str, int] | None = None) -> IdempotencyRecord:
        """The key's record, which is this attempt's where there was none, or where it is that of an attempt that was
        released or is `given_up`: (attempt, number of renewals) as it last was."""
        try:
            with self.database.write() as session:
                row = session.get(IdempotencyRecord, claim.name, with_for_update=True)
                if row is not None and row.created_at + KEEP_S < time.time():
                    session.delete(row)
                    session.flush()
                    row = None
                if row is None:
                    row = IdempotencyRecord(
                        id=claim.name,
                        digest=claim.digest,
                        attempt=claim.attempt,
                        num_renewals=0,
                        created_at=time.time(),
                    )
                    session.add(row)
                elif row.digest == claim.digest and row.status is None and _is_free(row, given_up):
                    row.attempt = claim.attempt
            return row
        except IntegrityError:  # another server was first
            return self.claim(claim, given_up=given_up)

    def get(self, name: str) -> IdempotencyRecord | None:
        with self.database.read() as session:
            return session.get(IdempotencyRecord, name)

    def mark(self, claim: Claim, session: Session, object_id: str) -> None:
        """Write the object's id in the transaction that makes it. Raises ApiError 409 where another attempt has taken
        over."""
        free = IdempotencyRecord.object_id.is_(None)
        found = session.scalar(select(IdempotencyRecord.id).where(*_held(claim), free).with_for_update())
        if found is None:
            raise ApiError(409, "another attempt with this Idempotency-Key has taken over", code=LOST)
        session.execute(update(IdempotencyRecord).where(*_held(claim)).values(object_id=object_id))

    def renew(self, claim: Claim) -> None:
        more = IdempotencyRecord.num_renewals + 1
        with self.database.write() as session:
            session.execute(update(IdempotencyRecord).where(*_held(claim)).values(num_renewals=more))

    def finish(self, claim: Claim, status: int, media_type: str, body: str) -> None:
        """The answer is kept."""
        values = {"status": status, "media_type": media_type, "body": body}
        with self.database.write() as session:
            session.execute(update(IdempotencyRecord).where(*_held(claim)).values(values))

    def release(self, claim: Claim) -> None:
        """Nothing is kept but the id of what was made."""
        with self.database.write() as session:
            session.execute(delete(IdempotencyRecord).where(*_held(claim), IdempotencyRecord.object_id.is_(None)))
            session.execute(update(IdempotencyRecord).where(*_held(claim)).values(attempt=RELEASED))

    def sweep(self) -> None:
        with self.database.write() as session:
            session.execute(delete(IdempotencyRecord).where(IdempotencyRecord.created_at < time.time() - KEEP_S))


def _is_free(row: IdempotencyRecord, given_up: tuple[str, int] | None) -> bool:
    return row.attempt == RELEASED or (row.attempt, row.num_renewals) == given_up


def _held(claim: Claim) -> tuple[ColumnElement[bool], ...]:
    unfinished = IdempotencyRecord.status.is_(None)
    return IdempotencyRecord.id == claim.name, IdempotencyRecord.attempt == claim.attempt, unfinished

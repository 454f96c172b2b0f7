"""StoredResponses: what was answered, kept for its owner alone and for so long."""

from __future__ import annotations

import json
import re
import time
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from tramontane.server.errors import ApiError
from tramontane.server.files.files import Reader
from tramontane.server.idempotency.records import Mark, unmarked
from tramontane.server.quotas import NO_QUOTAS, Quotas
from tramontane.server.store.database import Database
from tramontane.server.store.tables import StoredResponse

DAY_S = 86_400.0
_ITEM = re.compile(r"[a-z]+_([0-9a-f]{32})_(?:in)?\d+")
"""An item's id holds that of the request it came with."""


class StoredResponses:
    """Waits for the disk: call it from other threads than the event loop's. What other owners have, or has expired, is
    not there."""

    def __init__(self, database: Database, *, days: int, quotas: Quotas = NO_QUOTAS) -> None:
        self.database = database
        self.quotas = quotas
        self.days = days  # 0: nothing is kept

    def require_room(self, reader: Reader) -> None:
        """Raises ApiError where no more can be kept: before an answer is computed."""
        with self.database.read() as session:
            self.quotas.require(session, reader.owner, reader.key_id, max_stored_bytes=1)

    def add(self, reader: Reader, items: list[dict[str, Any]], body: dict[str, Any], mark: Mark = unmarked) -> None:
        """Keep `body`, the answer to a conversation of `items`: whole once this returns. Raises ApiError beyond a
        quota."""
        now = time.time()
        row = StoredResponse(
            id=body["id"],
            owner=reader.owner,
            size_bytes=len(json.dumps(items)) + len(json.dumps(body)),
            created_at=now,
            expires_at=now + self.days * DAY_S,
            input=items,
            body=body,
        )
        with self.database.write() as session:
            self.quotas.require(session, reader.owner, reader.key_id, max_stored_bytes=row.size_bytes)
            session.add(row)
            mark(session, row.id)

    def get(self, response_id: str, owner: str, *, param: str = "id") -> StoredResponse:
        """Raises ApiError 404 if there is none; `param` is the field that names it."""
        with self.database.read() as session:
            return _find(session, response_id, owner, param)

    def item(self, item_id: str, owner: str) -> dict[str, Any]:
        """An item of a stored response's input or output. Raises ApiError 404 if there is none."""
        if found := _ITEM.fullmatch(item_id):
            with self.database.read() as session:
                row = _row(session, f"resp_{found[1]}", owner)
            items = [] if row is None else [*row.input, *row.body["output"]]
            for item in items:
                if item["id"] == item_id:
                    return dict(item)
        raise ApiError(404, "no item of that id is kept here; send the item itself", param="input")

    def delete(self, response_id: str, owner: str) -> None:
        """Raises ApiError 404 if there is none."""
        self.database.free(lambda session: session.delete(_find(session, response_id, owner)))

    def sweep(self) -> None:
        """Delete what has expired."""
        expired = delete(StoredResponse).where(StoredResponse.expires_at <= time.time())
        self.database.free(lambda session: session.execute(expired))


def _row(session: Session, response_id: str, owner: str) -> StoredResponse | None:
    wanted = StoredResponse.id == response_id, StoredResponse.owner == owner, StoredResponse.expires_at > time.time()
    return session.scalar(select(StoredResponse).where(*wanted))


def _find(session: Session, response_id: str, owner: str, param: str = "id") -> StoredResponse:
    row = _row(session, response_id, owner)
    if row is None:
        code = "previous_response_not_found" if param == "previous_response_id" else None
        raise ApiError(404, "no response of that id is kept here; send the whole input", param=param, code=code)
    return row

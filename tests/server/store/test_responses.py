"""Kept responses on both databases: there for their owner until they expire, and swept then."""

from __future__ import annotations

import time

import pytest
from sqlalchemy import func, select

from tramontane.server.errors import ApiError
from tramontane.server.responses.store import DAY_S, StoredResponses
from tramontane.server.store.database import Database
from tramontane.server.store.tables import StoredResponse

REQUEST = "0123456789abcdef" * 2
RESPONSE = f"resp_{REQUEST}"
MESSAGE = {"id": f"msg_{REQUEST}_0", "type": "message", "content": [{"text": "é\u2028"}]}
BODY = {"id": RESPONSE, "output": [MESSAGE]}
ITEMS = [{"id": f"msg_{REQUEST}_in0", "type": "message", "role": "user", "content": "x"}]


class Alice:
    owner = key_id = "alice"


def num_rows(database: Database) -> int:
    with database.read() as session:
        return session.scalar(select(func.count()).select_from(StoredResponse)) or 0


def test_a_response_is_its_owners_until_it_expires(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    responses = StoredResponses(database, days=3)
    responses.add(Alice(), ITEMS, BODY)
    row = responses.get(RESPONSE, "alice")
    assert (row.body, row.input) == (BODY, ITEMS)
    assert responses.item(f"msg_{REQUEST}_0", "alice") == MESSAGE
    assert responses.item(f"msg_{REQUEST}_in0", "alice") == ITEMS[0]
    for owner, name in (("bob", f"msg_{REQUEST}_0"), ("alice", f"msg_{REQUEST}_1"), ("alice", "msg_1"), ("alice", "")):
        with pytest.raises(ApiError, match="kept here") as caught:
            responses.item(name, owner)
        assert caught.value.status == 404
    with pytest.raises(ApiError, match="kept here"):
        responses.delete(RESPONSE, "bob")
    responses.sweep()
    assert num_rows(database) == 1
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3 * DAY_S + 1)
    with pytest.raises(ApiError, match="kept here"):
        responses.get(RESPONSE, "alice")
    responses.sweep()
    assert num_rows(database) == 0


def test_a_deleted_response_is_gone(database: Database) -> None:
    responses = StoredResponses(database, days=1)
    responses.add(Alice(), ITEMS, BODY)
    responses.delete(RESPONSE, "alice")
    with pytest.raises(ApiError, match="kept here"):
        responses.get(RESPONSE, "alice")

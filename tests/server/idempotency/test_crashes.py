"""Crashes between the steps of a create, and servers that share a database: one object each, whatever is retried."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from sqlalchemy import func, select

from tests.server.idempotency.crashing import NUM_POINTS, Crash, Server, retry
from tramontane.server.idempotency import once, records
from tramontane.server.idempotency.records import Claim, IdempotencyRecords
from tramontane.server.store.contents import ContentStore
from tramontane.server.store.database import Database, open_database
from tramontane.server.store.tables import File, IdempotencyRecord


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(once, "GIVE_UP_S", 0.0)
    monkeypatch.setattr(once, "POLL_S", 0.0)


def count(database: Database) -> int:
    with database.read() as session:
        return session.scalar(select(func.count()).select_from(File)) or 0


@pytest.mark.usefixtures("impatient")
def test_a_death_at_any_point_makes_no_second(database: Database, tmp_path: Path) -> None:
    contents = ContentStore(tmp_path / "state")
    num_deaths = 0
    for first in range(NUM_POINTS + 1):
        for second in range(NUM_POINTS + 1):
            key, before = f"{first} {second}", count(database)
            for dies_at in (first, second):
                try:
                    asyncio.run(Server(database, contents, dies_at).create(key, b"x"))
                except Crash:
                    num_deaths += 1
            status, body, _ = asyncio.run(Server(database, contents).create(key, b"x"))
            assert (status, count(database)) == (200, before + 1), (first, second)
            again = asyncio.run(Server(database, contents).create(key, b"x"))
            assert again == (200, body, True)
            with contents.open(body["id"]) as file:
                assert file.read() == b"x"
    assert num_deaths > 150


@pytest.mark.usefixtures("impatient")
def test_random_deaths_make_no_second(database: Database, tmp_path: Path) -> None:
    draw = random.Random(6)
    contents = ContentStore(tmp_path / "state")
    for number in range(20):
        ids = asyncio.run(retry(database, contents, f"key {number}", b"x", draw, 12))
        assert len(set(ids)) == 1
    assert count(database) == 20


def test_servers_on_one_database_make_one(address: str, tmp_path: Path) -> None:
    """At the same moment, a dozen of each of two, of which some die."""
    contents = ContentStore(tmp_path / "state")
    draw = random.Random(7)
    databases = [open_database(address) for _ in range(2)]

    async def all_at_once(key: str) -> set[str]:
        async def one(database: Database) -> str | None:
            try:
                dies_at = draw.randrange(NUM_POINTS) if draw.random() < 0.3 else None
                return str((await Server(database, contents, dies_at).create(key, b"x"))[1]["id"])
            except Crash:
                return None

        found = await asyncio.gather(*(one(database) for database in databases * 6))
        return {file_id for file_id in found if file_id is not None}

    try:
        for number in range(3):
            assert len(asyncio.run(all_at_once(f"key {number}"))) == 1
        assert count(databases[0]) == 3
    finally:
        for database in databases:
            database.close()


@pytest.mark.usefixtures("impatient")
def test_an_attempt_that_was_only_slow_makes_nothing(database: Database, tmp_path: Path) -> None:
    """It sleeps between its claim and what it makes; another takes over meanwhile."""
    contents = ContentStore(tmp_path / "state")
    slow = IdempotencyRecords(database)

    async def run() -> None:
        server, other = Server(database, contents), Server(database, contents)
        claim_of = server.idempotency.records.claim
        made: list[object] = []

        def claim(claim: Claim, *, given_up: tuple[str, int] | None = None) -> IdempotencyRecord:
            row = claim_of(claim, given_up=given_up)
            made.append(asyncio.run_coroutine_threadsafe(other.create("key", b"x"), loop).result())
            return row

        loop = asyncio.get_running_loop()
        server.idempotency.records.claim = claim  # type: ignore[method-assign]
        with pytest.raises(Exception, match="taken over"):
            await server.create("key", b"x")
        assert len(made) == 1

    asyncio.run(run())
    assert count(database) == 1
    assert slow.get("none") is None
    status, _, is_again = asyncio.run(Server(database, contents).create("key", b"x"))
    assert (status, is_again) == (200, True)


def test_a_key_is_known_for_a_day_and_then_forgotten(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = ContentStore(tmp_path / "state")
    assert records.KEEP_S >= 24 * 3600
    _, body, _ = asyncio.run(Server(database, contents).create("key", b"x"))
    Server(database, contents).idempotency.sweep()
    assert asyncio.run(Server(database, contents).create("key", b"x")) == (200, body, True)
    monkeypatch.setattr(records, "KEEP_S", 0.0)
    assert asyncio.run(Server(database, contents).create("key", b"x"))[1] != body
    Server(database, contents).idempotency.sweep()
    with database.read() as session:
        assert session.scalar(select(func.count()).select_from(IdempotencyRecord)) == 0

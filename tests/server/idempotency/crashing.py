"""A server's part that makes files under a key, and dies where it is told to: nothing of it is done from then on."""

from __future__ import annotations

import asyncio
import json
import random
import time
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from sqlalchemy.orm import Session

from tramontane.server.auth import OWNER
from tramontane.server.files.files import Files
from tramontane.server.idempotency.once import Idempotency
from tramontane.server.idempotency.records import Claim, IdempotencyRecords, Mark
from tramontane.server.store.contents import ContentStore
from tramontane.server.store.database import Database
from tramontane.server.store.tables import File, IdempotencyRecord

NUM_POINTS = 10
"""Places of a create where a process may end, the last behind its answer."""


class Crash(BaseException):
    """The end of a process; what `finally` would tidy up is refused by then."""


@dataclass
class Server:
    """`dies_at`: how many points it passes before it dies; None: it lives."""

    database: Database
    contents: ContentStore
    dies_at: int | None = None
    is_dead: bool = False
    num_made: int = 0
    idempotency: Idempotency = field(init=False)

    def __post_init__(self) -> None:
        self.idempotency = Idempotency(self.database)
        self.idempotency.records = CrashingRecords(self.database, self)

    def point(self) -> None:
        if self.dies_at is not None:
            self.dies_at -= 1
            self.is_dead = self.is_dead or self.dies_at < 0
        if self.is_dead:
            raise Crash

    async def create(self, key: str, content: bytes) -> tuple[int, dict[str, Any], bool]:
        """Status, body, and whether it is the answer of an earlier request."""
        headers = [(b"idempotency-key", key.encode())]
        scope = {"type": "http", "method": "POST", "path": "/v1/files", "query_string": b"", "headers": headers}

        async def make(mark: Mark) -> Response:
            return JSONResponse(await asyncio.to_thread(self._make, content, mark))

        async def find(file_id: str) -> Response:
            return JSONResponse({"id": file_id})

        answer = await self.idempotency.once(Request(scope), OWNER, make, find, content=content)
        self.point()
        return answer.status_code, json.loads(bytes(answer.body)), "idempotent-replayed" in answer.headers

    def _make(self, content: bytes, mark: Mark) -> dict[str, Any]:
        files = Files(self.database, self.contents)
        with self.contents.incoming() as incoming:
            incoming.write(content)
            self.point()
            row = File(
                owner=OWNER.owner, key_id=OWNER.key_id, filename="a", purpose="user_data", sample_type="",
                source="upload", visibility="workspace", created_at=time.time(),
            )  # fmt: skip
            row = files.add(incoming, row, mark)
        self.num_made += 1
        self.point()
        return {"id": row.id}


class CrashingRecords(IdempotencyRecords):
    def __init__(self, database: Database, server: Server) -> None:
        super().__init__(database)
        self._server = server

    def claim(self, claim: Claim, *, given_up: tuple[str, int] | None = None) -> IdempotencyRecord:
        self._server.point()
        row = super().claim(claim, given_up=given_up)
        self._server.point()
        return row

    def mark(self, claim: Claim, session: Session, object_id: str) -> None:
        self._server.point()
        super().mark(claim, session, object_id)
        self._server.point()

    def finish(self, claim: Claim, status: int, media_type: str, body: str) -> None:
        self._server.point()
        super().finish(claim, status, media_type, body)
        self._server.point()

    def release(self, claim: Claim) -> None:
        self._server.point()
        super().release(claim)


async def retry(
    database: Database, contents: ContentStore, key: str, content: bytes, draw: random.Random, num_tries: int
) -> list[str]:
    """The ids that the living answered with, of so many tries, a part of which die."""
    ids = []
    for _ in range(num_tries):
        dies_at = draw.randrange(NUM_POINTS) if draw.random() < 0.6 else None
        try:
            status, body, _ = await Server(database, contents, dies_at).create(key, content)
        except Crash:
            continue
        assert status == 200, body
        ids.append(body["id"])
    return ids

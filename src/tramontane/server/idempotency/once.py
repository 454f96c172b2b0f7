"""Idempotency: a request's Attempt under its Idempotency-Key, or the answer that an earlier one has had.

The header as Stripe's API has it, and draft-ietf-httpapi-idempotency-key-header.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import re
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType

from fastapi import Request
from fastapi.responses import Response
from starlette.types import Scope

from tramontane.server.auth import Caller
from tramontane.server.errors import ApiError, as_api_error
from tramontane.server.guard import CONTENT_DIGEST, KEY_HEADER, KEY_HONOURED
from tramontane.server.idempotency.records import LOST, RELEASED, Claim, IdempotencyRecords, Mark, unmarked
from tramontane.server.store.database import Database
from tramontane.server.store.tables import IdempotencyRecord

KEY = re.compile(r"[!-~]([ -~]{0,253}[!-~])?\Z")
REPLAYED = {"idempotent-replayed": "true"}
KEPT_REFUSALS = frozenset((404, 409))
"""What says how things stood. Other refusals say that the request is wrong or has come at a wrong time: a retry is new.
"""
RENEW_S = 1.0
MAX_RENEWALS = 3600
GIVE_UP_S = 4.0
"""An attempt that does not renew its claim for this long has died."""
WAIT_S = 25.0
"""A retry waits this long for an attempt under way before it is told to come again."""
POLL_S = 0.1
MAX_WAITING = 64
MAX_KEPT_BYTES = 4 * 2**20
"""A longer stream is made again of the object, without its pieces."""


class AnsweredError(Exception):
    """An earlier attempt has had its answer: `response`."""

    def __init__(self, response: Response) -> None:
        super().__init__("answered before")
        self.response = response


@dataclass(frozen=True, slots=True)
class KeyedRequest:
    """A request with an Idempotency-Key. `name` stands for owner, route and key, `digest` for all of the request."""

    name: str
    digest: bytes
    scope: Scope

    @classmethod
    def of(cls, request: Request, caller: Caller, content: bytes | None = None) -> KeyedRequest | None:
        """None for a request without a key. `content` stands for its body, where that was not read as JSON. Raises
        ApiError 400 for a key that is none."""
        keys = request.headers.getlist(KEY_HEADER)
        if not keys:
            return None
        if len(keys) > 1 or not KEY.match(keys[0]):
            raise ApiError(
                400, "Idempotency-Key must be one text of 1 to 255 visible ASCII characters", param=KEY_HEADER
            )
        route = f"{request.method} {request.url.path}".encode()
        name = _digest(caller.owner.encode(), route, keys[0].encode()).hex()
        if content is None:
            content = request.scope.get(CONTENT_DIGEST, b"")
        return cls(name, _digest(route, request.url.query.encode(), content), request.scope)


class Attempt:
    """The handling of one request. `object_id` is set where an earlier attempt has made the object and died before its
    answer was kept. Within `async with` the claim is renewed; an exception ends it, and its answer is kept where it is
    one that would be the same the next time."""

    def __init__(
        self, records: IdempotencyRecords | None = None, claim: Claim | None = None, object_id: str | None = None
    ) -> None:
        self.object_id = object_id
        self._held = None if records is None or claim is None else (records, claim)  # None: the request has no key
        self._renewing: asyncio.Task[None] | None = None
        self._is_kept = False

    @property
    def mark(self) -> Mark:
        return unmarked if self._held is None else functools.partial(self._held[0].mark, self._held[1])

    async def keep(self, answer: Response) -> None:
        """The answer is repeated from now on."""
        await self._keep(answer.status_code, answer.media_type or "application/json", bytes(answer.body))

    def recorded(self, events: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
        """The events of an answer that is streamed. They are kept when they have ended, if something was made; the
        attempt ends with them."""
        return events if self._held is None else self._recorded(events, *self._held)

    async def _recorded(
        self, events: AsyncGenerator[bytes], records: IdempotencyRecords, claim: Claim
    ) -> AsyncGenerator[bytes]:
        said: list[bytes] = []
        num_bytes = 0
        async with self, contextlib.aclosing(events):
            async for event in events:
                num_bytes += len(event)
                if num_bytes <= MAX_KEPT_BYTES:
                    said.append(event)
                yield event
            row = await asyncio.to_thread(records.get, claim.name)
            if num_bytes <= MAX_KEPT_BYTES and row is not None and row.object_id is not None:
                await self._keep(200, "text/event-stream", b"".join(said))

    async def __aenter__(self) -> Attempt:
        if self._held is not None and self._renewing is None:
            self._renewing = asyncio.create_task(_renew(*self._held))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._renewing is not None:
            self._renewing.cancel()
        if self._held is None:
            return
        if isinstance(error, Exception):
            failure = as_api_error(error)
            if failure.status in KEPT_REFUSALS and failure.code != LOST:
                await self.keep(failure.response())
        if not self._is_kept:
            records, claim = self._held
            await asyncio.shield(asyncio.to_thread(records.release, claim))

    async def _keep(self, status: int, media_type: str, body: bytes) -> None:
        if self._held is not None:
            records, claim = self._held
            await asyncio.to_thread(records.finish, claim, status, media_type, body.decode())
            self._is_kept = True


class Idempotency:
    def __init__(self, database: Database) -> None:
        self.records = IdempotencyRecords(database)
        self._num_waiting = 0

    async def once(
        self,
        request: Request,
        caller: Caller,
        make: Callable[[Mark], Awaitable[Response]],
        find: Callable[[str], Awaitable[Response]] | None = None,
        *,
        content: bytes | None = None,
    ) -> Response:
        """`make`'s answer, the first time. Of a retry after a crash, that of `find` for the id that was marked; where
        nothing was marked, `make` is called again. `content` as in KeyedRequest.of."""
        try:
            begun = await self.begin(KeyedRequest.of(request, caller, content))
        except AnsweredError as answered:
            return answered.response
        async with begun as attempt:
            if attempt.object_id is not None and find is not None:
                answer = await find(attempt.object_id)
            else:
                answer = await make(attempt.mark)
            await attempt.keep(answer)
        return answer

    async def begin(self, keyed: KeyedRequest | None) -> Attempt:
        """An attempt, to be entered. Raises AnsweredError for a request whose answer is kept, ApiError 422 for a key of
        another request, 409 where an attempt under way does not end."""
        if keyed is None:
            return Attempt()
        keyed.scope[KEY_HONOURED] = True
        claim = Claim(keyed.name, keyed.digest, str(uuid.uuid4()))
        row = await asyncio.to_thread(self.records.claim, claim)
        if row.status is None and row.attempt != claim.attempt and row.digest == claim.digest:
            row = await self._wait(claim, row)
        if row.digest != claim.digest:
            entry = {"type": "value_error", "loc": ["header", KEY_HEADER], "msg": "belongs to another request"}
            raise ApiError(
                422,
                "this Idempotency-Key was used for a request with another body; a new request needs a new key",
                param=KEY_HEADER,
                code="idempotency_key_reused",
                detail=[entry],
            )
        if row.status is not None:
            raise AnsweredError(Response(row.body or "", row.status, REPLAYED, row.media_type))
        return Attempt(self.records, claim, row.object_id)

    def sweep(self) -> None:
        self.records.sweep()

    async def _wait(self, claim: Claim, row: IdempotencyRecord) -> IdempotencyRecord:
        """For the attempt under way to end, well or badly: the record as it is then, which may be ours."""
        if self._num_waiting >= MAX_WAITING:
            raise _in_progress()
        self._num_waiting += 1
        try:
            started = seen_at = time.monotonic()
            seen = (row.attempt, row.num_renewals)
            while time.monotonic() - started < WAIT_S:
                await asyncio.sleep(POLL_S)
                found = await asyncio.to_thread(self.records.get, claim.name)
                is_over = found is None or found.attempt == RELEASED or found.status is not None
                if found is not None and (found.attempt, found.num_renewals) != seen:
                    seen, seen_at = (found.attempt, found.num_renewals), time.monotonic()
                if is_over or time.monotonic() - seen_at > GIVE_UP_S:
                    row = await asyncio.to_thread(self.records.claim, claim, given_up=seen)
                    if row.status is not None or row.attempt == claim.attempt or row.digest != claim.digest:
                        return row
            raise _in_progress()
        finally:
            self._num_waiting -= 1


async def _renew(records: IdempotencyRecords, claim: Claim) -> None:
    for _ in range(MAX_RENEWALS):
        await asyncio.sleep(RENEW_S)
        with contextlib.suppress(Exception):  # a database that is out of reach is told of elsewhere
            await asyncio.to_thread(records.renew, claim)


def _in_progress() -> ApiError:
    return ApiError(
        409,
        "the first request with this Idempotency-Key is still running; try again",
        code="idempotency_in_progress",
        headers={"Retry-After": "2"},
    )


def _digest(*parts: bytes) -> bytes:
    found = hashlib.sha256()
    for part in parts:
        found.update(len(part).to_bytes(8, "big") + part)
    return found.digest()

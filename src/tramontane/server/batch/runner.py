"""BatchRunner: answers the requests of batches in the background, a few at a time, behind those of waiting users.

Owners take turns twice: at the requests that are computed at once, and at the jobs that are worked on. An owner's jobs
are opened a few at a time, for more would end no sooner; where there is no room left, one gives way to another owner's.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import time
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any, Protocol

from tramontane.errors import TramontaneError
from tramontane.server.auth import Caller, Gate
from tramontane.server.batch.jobs import (
    CANCELLATION_REQUESTED,
    CANCELLED,
    FAILED,
    SUCCESS,
    TIMEOUT_EXCEEDED,
    BatchJobs,
)
from tramontane.server.batch.requests import BatchItem, read_items
from tramontane.server.batch.results import finish
from tramontane.server.errors import ApiError
from tramontane.server.fair_slots import FairSlots
from tramontane.server.lease import RENEW_S, Deadlines, LeaseLostError, LeaseWatch
from tramontane.server.store.tables import BatchJob
from tramontane.tasks import cancelled, ended

log = logging.getLogger(__name__)

MAX_JOBS = 32
"""Jobs worked on at once; their requests share `concurrency`."""
MAX_JOBS_PER_OWNER = 4
TURN_S = 10.0
"""How long a job is worked on at least before it gives way to another owner's."""
CHECK_S = RENEW_S
"""How often a job's lease is renewed and new jobs are looked for, where nothing tells of them sooner."""
BUSY_RETRY_S = 0.5
RETRY_S = 30.0
"""Until a job is tried again after a failure of the server's own, such as a full disk."""
READ_TOGETHER = 64
NO_ANSWER = (429, 503)
"""Statuses that say nothing about a request: the queue was full, or the server goes down."""


class Answer(Protocol):
    """Status and body of one request, as HTTP would give them."""

    def __call__(
        self, endpoint: str, body: Mapping[str, Any], caller: Caller, dialect: str
    ) -> Awaitable[tuple[int, dict[str, Any]]]: ...


@dataclass(frozen=True, slots=True)
class _Work:
    """`since`: on the monotonic clock."""

    owner: str
    since: float
    task: asyncio.Task[None]


class BatchFailedError(Exception):
    """The batch cannot go on; the message is for its owner."""


class BatchRunner:
    """`run` works until it is cancelled; then others may go on with its jobs at once."""

    def __init__(self, jobs: BatchJobs, gate: Gate, answer: Answer, *, concurrency: int) -> None:
        """`concurrency`: requests of one owner computed at once. There is always a place for one more of another's."""
        self.jobs = jobs
        self.gate = gate
        self._answer = answer
        self._slots = FairSlots(concurrency + 1, per_owner=concurrency)
        self._holder = str(uuid.uuid4())
        self._watch = LeaseWatch()
        self._deadlines = Deadlines()
        self._working: dict[str, _Work] = {}  # by job, the longest worked on first
        self._put_off: dict[str, float] = {}  # jobs that failed here, until when
        self._news = asyncio.Event()

    def wake(self) -> None:
        """There is a job to begin or to cancel."""
        self._news.set()

    async def run(self) -> None:
        try:
            while True:
                self._news.clear()
                try:
                    await self._begin()
                    await self._give_way()
                except Exception as error:
                    is_told = isinstance(error, TramontaneError)
                    message = "no batch can be begun; the next try comes in %g s: %s"
                    log.error(message, CHECK_S, error, exc_info=None if is_told else error)
                with suppress(TimeoutError):
                    async with asyncio.timeout(CHECK_S):
                        await self._news.wait()
        finally:
            await cancelled(*[work.task for work in self._working.values()])
            await asyncio.to_thread(self.jobs.release, self._holder)

    async def _begin(self) -> None:
        self._put_off = {job_id: until for job_id, until in self._put_off.items() if until > time.monotonic()}
        while len(self._working) < MAX_JOBS:
            job = await asyncio.to_thread(
                self.jobs.claim,
                self._holder,
                self._watch,
                working=[*self._working, *self._put_off],
                max_per_owner=MAX_JOBS_PER_OWNER,
            )
            if job is None:
                return
            task = asyncio.create_task(self._work(job))
            self._working[job.id] = _Work(job.owner, time.monotonic(), task)
            task.add_done_callback(lambda _, job_id=job.id: self._ended(job_id))  # type: ignore[misc]

    async def _give_way(self) -> None:
        """Where there is no room, and an owner waits of whom nothing is worked on, put one job back: of the owner who
        has the most here, the one that has been worked on longest."""
        num_jobs = Counter(work.owner for work in self._working.values())
        if len(self._working) < MAX_JOBS:
            return
        if not await asyncio.to_thread(self.jobs.is_anyone_kept_waiting, num_jobs, but_for=self._put_off):
            return
        old = time.monotonic() - TURN_S
        ready = [work for work in self._working.values() if work.since <= old and not work.task.cancelling()]
        if ready:
            max(ready, key=lambda work: num_jobs[work.owner]).task.cancel()

    def _ended(self, job_id: str) -> None:
        del self._working[job_id]
        self.wake()

    async def _work(self, job: BatchJob) -> None:
        try:
            try:
                status, problems = await self._attend(job), list[str]()
            except BatchFailedError as error:
                status, problems = FAILED, [str(error)]
            await asyncio.to_thread(finish, self.jobs, job.id, self._holder, status, problems)
            log.info("batch %s has ended: %s", job.id, status)
        except LeaseLostError:
            log.warning("batch %s goes on elsewhere", job.id)
        except asyncio.CancelledError:  # the lease is kept until nothing is done under it any more
            await ended(asyncio.ensure_future(asyncio.to_thread(self.jobs.release, self._holder, job_id=job.id)))
            raise
        except Exception as error:
            is_told = isinstance(error, TramontaneError)  # a full disk, which may last for days
            message = "batch %s cannot go on now; the next try comes in %g s: %s"
            log.error(message, job.id, RETRY_S, error, exc_info=None if is_told else error)
            self._put_off[job.id] = time.monotonic() + RETRY_S
            with suppress(Exception):  # or it is taken back when it is claimed
                await asyncio.to_thread(self.jobs.release, self._holder, job_id=job.id)

    async def _attend(self, job: BatchJob) -> str:
        """Keep the lease and watch for cancellation and the end of the time while the requests are answered. Returns
        the status to end with."""
        results = _Results(self.jobs, job.id, self._holder)
        answering = asyncio.create_task(self._answer_all(job, results))
        try:
            while True:
                if job.status == CANCELLATION_REQUESTED:
                    return CANCELLED
                left_s = self._deadlines.left_s(job.created_at, job.expires_at)
                if left_s <= 0:
                    return TIMEOUT_EXCEEDED
                wait_s = min(CHECK_S, left_s)
                news = asyncio.create_task(self._news.wait())
                try:
                    await asyncio.wait((answering, news), timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    news.cancel()
                if answering.done():
                    answering.result()
                    return SUCCESS
                job = await asyncio.to_thread(self.jobs.renew, job.id, self._holder)
        finally:
            try:
                await cancelled(answering)
            finally:
                await results.settled()

    async def _answer_all(self, job: BatchJob, results: _Results) -> None:
        done = await asyncio.to_thread(self.jobs.finished_lines, job.id)
        try:
            async with asyncio.TaskGroup() as group, aclosing(self._items(job, done)) as items:
                async for item in items:
                    caller = await self._admitted(job)
                    await self._slots.acquire(job.owner)
                    task = group.create_task(self._answer_one(job, item, caller, results))
                    task.add_done_callback(lambda _: self._slots.release(job.owner))  # also of one that never began
        except BaseExceptionGroup as group_error:
            raise group_error.exceptions[0] from None

    async def _items(self, job: BatchJob, done: set[int]) -> AsyncGenerator[BatchItem]:
        try:
            file = await asyncio.to_thread(self.jobs.contents.open, job.requests_id)
        except FileNotFoundError:
            raise BatchFailedError("the batch's requests are gone from the server's store") from None
        try:
            items = read_items(file, done)
            while some := await asyncio.to_thread(lambda: list(itertools.islice(items, READ_TOGETHER))):
                for item in some:
                    yield item
        finally:
            file.close()

    async def _admitted(self, job: BatchJob) -> Caller:
        """The batch's caller, once the limits of its key leave room for a request."""
        while True:
            try:
                return await self.gate.readmit(job.key_id)
            except ApiError as error:
                if error.status != 429:
                    raise BatchFailedError(error.message) from None
                await asyncio.sleep(float(error.headers["retry-after"]))

    async def _answer_one(self, job: BatchJob, item: BatchItem, caller: Caller, results: _Results) -> None:
        while True:
            status, body = await self._answer(job.endpoint, item.body, caller, job.dialect)
            if status not in NO_ANSWER:
                break
            await asyncio.sleep(BUSY_RETRY_S)
        await results.append(
            {"line": item.line, "custom_id": item.custom_id, "status_code": status, "body": json.dumps(body)}
        )


class _Results:
    """Stores results; those that come while others are being stored go together, in one transaction."""

    def __init__(self, jobs: BatchJobs, job_id: str, holder: str) -> None:
        self._jobs = jobs
        self._job_id = job_id
        self._holder = holder
        self._pending: list[dict[str, object]] = []
        self._lock = asyncio.Lock()
        self._storing: asyncio.Future[None] | None = None

    async def append(self, result: dict[str, object]) -> None:
        """Durable when this returns."""
        self._pending.append(result)
        async with self._lock:
            if result not in self._pending:  # whoever held the lock before has stored it
                return
            together, self._pending = self._pending, []
            self._storing = asyncio.ensure_future(
                asyncio.to_thread(self._jobs.append, self._job_id, self._holder, together)
            )
            await asyncio.shield(self._storing)  # a thread cannot be cancelled, so `settled` waits for it

    async def settled(self) -> None:
        """Until nothing is being stored any more, however that ends."""
        if self._storing is not None:
            await ended(self._storing)

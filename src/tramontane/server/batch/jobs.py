"""BatchJobs: the rows of batches. A server works on a job while it holds the job's lease; what it writes under a lease
that it has lost is refused, so that no result is ever stored twice."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import ColumnElement, and_, case, func, insert, or_, select, update
from sqlalchemy.orm import Session

from tramontane.server.errors import ApiError
from tramontane.server.idempotency.records import Mark, unmarked
from tramontane.server.lease import LeaseLostError, LeaseWatch, Sight
from tramontane.server.quotas import NO_QUOTAS, Quotas
from tramontane.server.store.contents import ContentStore, Incoming
from tramontane.server.store.database import Database
from tramontane.server.store.id_folder import ID
from tramontane.server.store.pages import select_page
from tramontane.server.store.tables import BatchJob, BatchResult

QUEUED, RUNNING, CANCELLATION_REQUESTED = "QUEUED", "RUNNING", "CANCELLATION_REQUESTED"
SUCCESS, FAILED, TIMEOUT_EXCEEDED, CANCELLED = "SUCCESS", "FAILED", "TIMEOUT_EXCEEDED", "CANCELLED"
UNFINISHED = (QUEUED, RUNNING, CANCELLATION_REQUESTED)
STATUSES = (*UNFINISHED, SUCCESS, FAILED, TIMEOUT_EXCEEDED, CANCELLED)


@dataclass(frozen=True, slots=True)
class JobListing:
    """Which jobs to list. `after` is OpenAI's cursor, `page` Mistral's number from 0."""

    page: int = 0
    page_size: int = 100
    after: str | None = None
    is_ascending: bool = False
    dialect: str | None = None
    model: str | None = None
    statuses: Sequence[str] = ()
    created_after: float | None = None
    key_id: str | None = None
    details: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JobPage:
    jobs: list[BatchJob] = field(default_factory=list)
    total: int = 0
    has_more: bool = False


class BatchJobs:
    """Waits for the disk: call it from other threads than the event loop's."""

    def __init__(self, database: Database, contents: ContentStore, quotas: Quotas = NO_QUOTAS) -> None:
        self.database = database
        self.contents = contents
        self.quotas = quotas

    def add(self, requests: Incoming, job: BatchJob, mark: Mark = unmarked) -> BatchJob:
        """The requests first, then the row: once this returns, no crash loses the job. Raises ApiError beyond a
        quota."""
        job.requests_id, job.requests_bytes = requests.id, requests.size_bytes
        with self.contents.published(requests), self.database.write() as session:
            added = {"max_batches": 1, "max_stored_bytes": requests.size_bytes}
            self.quotas.require(session, job.owner, job.key_id, **added)
            session.add(job)
            mark(session, job.id)
        return job

    def get(self, job_id: str, owner: str) -> BatchJob:
        """Raises ApiError 404 for a job that is not there, or not this owner's."""
        with self.database.read() as session:
            return _find(session, job_id, owner)

    def list(self, owner: str, listing: JobListing) -> JobPage:
        conditions = [BatchJob.owner == owner]
        for column, value in (
            (BatchJob.dialect, listing.dialect), (BatchJob.model, listing.model), (BatchJob.key_id, listing.key_id)
        ):  # fmt: skip
            if value is not None:
                conditions.append(column == value)
        if listing.statuses:
            conditions.append(BatchJob.status.in_(listing.statuses))
        if listing.created_after is not None:
            conditions.append(BatchJob.created_at > listing.created_after)
        conditions += [BatchJob.details[name].as_string() == value for name, value in listing.details.items()]
        with self.database.read() as session:
            start = None if listing.after is None else _find(session, listing.after, owner)
            return JobPage(
                *select_page(
                    session,
                    BatchJob,
                    conditions,
                    page=listing.page,
                    page_size=listing.page_size,
                    start=start,
                    is_ascending=listing.is_ascending,
                )
            )

    def cancel(self, job_id: str, owner: str) -> BatchJob:
        """A job nobody has begun is over at once; others when their server has heard of it. Raises ApiError 409 for one
        that has ended otherwise."""
        now = time.time()

        def cancel(session: Session) -> BatchJob:
            job = _find(session, job_id, owner, lock=True)
            if job.status == QUEUED and job.lease_holder is None:
                job.status, job.cancelled_at, job.completed_at = CANCELLED, now, now
            elif job.status in (QUEUED, RUNNING):
                job.status, job.cancelled_at = CANCELLATION_REQUESTED, now
            elif job.status not in (CANCELLATION_REQUESTED, CANCELLED):
                raise ApiError(409, f"the batch has ended: its status is {job.status}", code="batch_ended")
            return job

        return self.database.free(cancel)

    def delete(self, job_id: str, owner: str) -> None:
        """Its result files stay. Raises ApiError 409 for a job that has not ended and is not to: one that is cancelled
        might wait for a full disk to have room for its results."""

        def delete(session: Session) -> BatchJob:
            job = _find(session, job_id, owner, lock=True)
            if job.status in (QUEUED, RUNNING):
                raise ApiError(409, f"the batch is {job.status}; cancel it first", code="batch_not_ended")
            session.delete(job)
            return job

        self.contents.delete(self.database.free(delete).requests_id)

    def claim(
        self, holder: str, watch: LeaseWatch, *, working: Collection[str] = (), max_per_owner: int | None = None
    ) -> BatchJob | None:
        """The next job that nobody works on, from now on `holder`'s, who works on `working` (or puts off to) already.
        Those to be cancelled first; then of the owner for whom the fewest are worked on, and who has fewer than
        `max_per_owner` at `holder`, the oldest."""
        holds = BatchJob.lease_holder.is_not(None)
        with self.database.write() as session:
            held_rows = session.execute(
                select(BatchJob.id, BatchJob.owner, BatchJob.lease_holder, BatchJob.lease_count).where(
                    BatchJob.status.in_(UNFINISHED), holds
                )
            ).all()
            per_owner = Counter(row.owner for row in held_rows if row.lease_holder == holder)
            full = [] if max_per_owner is None else [owner for owner, n in per_owner.items() if n >= max_per_owner]
            sights = [Sight(row.id, row.lease_holder, row.lease_count) for row in held_rows]
            # a row of this holder's that it does not work on is one that it could not give back
            gone = watch.expired(sight for sight in sights if sight.holder != holder)
            gone += [sight for sight in sights if sight.holder == holder and sight.row_id not in working]
            worked_on = (
                select(BatchJob.owner, func.count().label("num_jobs"))
                .where(BatchJob.status.in_(UNFINISHED), holds)
                .group_by(BatchJob.owner)
                .subquery()
            )
            is_cancelled = BatchJob.status == CANCELLATION_REQUESTED
            job = session.scalar(
                select(BatchJob)
                .outerjoin(worked_on, worked_on.c.owner == BatchJob.owner)
                .where(
                    BatchJob.status.in_(UNFINISHED),
                    or_(BatchJob.lease_holder.is_(None), *map(_is_as_seen, gone)),
                    BatchJob.id.not_in(working),
                    or_(is_cancelled, BatchJob.owner.not_in(full)),
                )
                .order_by(case((is_cancelled, 0), else_=1), func.coalesce(worked_on.c.num_jobs, 0), BatchJob.created_at)
                .limit(1)
                .with_for_update(of=BatchJob, skip_locked=True)
            )
            if job is not None:
                job.lease_holder, job.lease_count = holder, job.lease_count + 1
                job.started_at = job.started_at or time.time()
                if job.status == QUEUED:
                    job.status = RUNNING
        return job

    def is_anyone_kept_waiting(self, owners: Collection[str], *, but_for: Collection[str] = ()) -> bool:
        """Whether a job that nobody works on, none of `but_for`, is of another owner than these."""
        query = select(BatchJob.id).where(
            BatchJob.status.in_(UNFINISHED),
            BatchJob.lease_holder.is_(None),
            BatchJob.owner.not_in(owners),
            BatchJob.id.not_in(but_for),
        )
        with self.database.read() as session:
            return session.scalar(query.limit(1)) is not None

    def renew(self, job_id: str, holder: str) -> BatchJob:
        """The job as it is now. Raises LeaseLostError."""
        with self.database.write() as session:
            job = held(session, job_id, holder)
            job.lease_count += 1
        return job

    def release(self, holder: str, *, job_id: str | None = None) -> None:
        """Let others have the jobs of `holder`, or the one."""
        which = [] if job_id is None else [BatchJob.id == job_id]
        with self.database.write() as session:
            session.execute(update(BatchJob).where(BatchJob.lease_holder == holder, *which).values(lease_holder=None))

    def finished_lines(self, job_id: str) -> set[int]:
        with self.database.read() as session:
            return set(session.scalars(select(BatchResult.line).where(BatchResult.job_id == job_id)))

    def append(self, job_id: str, holder: str, results: Sequence[Mapping[str, object]]) -> None:
        """Rows of batch_results without `job_id`: durable when this returns. Raises LeaseLostError."""
        num_failed = sum(int(str(result["status_code"])) >= 400 for result in results)
        with self.database.write() as session:
            job = held(session, job_id, holder)
            session.execute(insert(BatchResult), [{**result, "job_id": job_id} for result in results])
            job.num_succeeded += len(results) - num_failed
            job.num_failed += num_failed


def held(session: Session, job_id: str, holder: str) -> BatchJob:
    """The row of a job that `holder` works on, locked. Raises LeaseLostError."""
    job = session.scalar(
        select(BatchJob).where(BatchJob.id == job_id, BatchJob.lease_holder == holder).with_for_update()
    )
    if job is None:
        raise LeaseLostError
    return job


def _is_as_seen(sight: Sight) -> ColumnElement[bool]:
    return and_(BatchJob.id == sight.row_id, BatchJob.lease_holder == sight.holder, BatchJob.lease_count == sight.beat)


def _find(session: Session, job_id: str, owner: str, *, lock: bool = False) -> BatchJob:
    if ID.match(job_id):
        query = select(BatchJob).where(BatchJob.id == job_id, BatchJob.owner == owner)
        found = session.scalar(query.with_for_update() if lock else query)
        if found is not None:
            return found
    raise ApiError(404, "batch does not exist", param="job_id", code="batch_not_found")

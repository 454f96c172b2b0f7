"""FineTuningJobs: the rows of jobs and their folders. Every change of status leaves an event."""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem
from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from tramontane import durable
from tramontane.errors import ConfigError
from tramontane.server.errors import ApiError
from tramontane.server.idempotency.records import Mark, unmarked
from tramontane.server.quotas import NO_QUOTAS, Quotas
from tramontane.server.store.database import Database
from tramontane.server.store.id_folder import ID, IdFolder
from tramontane.server.store.pages import select_page
from tramontane.server.store.tables import FineTunedModel, FineTuningEvent, FineTuningJob
from tramontane.server.store.tie import Rows

QUEUED, VALIDATING, VALIDATED, STARTED, RUNNING = "QUEUED", "VALIDATING", "VALIDATED", "STARTED", "RUNNING"
FAILED_VALIDATION, FAILED, SUCCESS = "FAILED_VALIDATION", "FAILED", "SUCCESS"
CANCELLATION_REQUESTED, CANCELLED = "CANCELLATION_REQUESTED", "CANCELLED"
MOVING = (QUEUED, VALIDATING, STARTED, RUNNING, CANCELLATION_REQUESTED)
"""Jobs that go on by themselves; VALIDATED waits for its owner, STARTED for its turn."""
STATUSES = (*MOVING, VALIDATED, FAILED_VALIDATION, FAILED, SUCCESS, CANCELLED)
ENDED = (FAILED_VALIDATION, FAILED, SUCCESS, CANCELLED)
STATUS_UPDATED, INVALID_LINE, INTERRUPTED, SAMPLE = "status-updated", "invalid-line", "interrupted", "sample"
ESTIMATED = "estimated"
"""What training takes, memory among it, for which a job's metadata has no field in the API."""
MODEL = Path("run/model")
"""In a job's folder: what it makes."""
NOTE = "note"
"""How the samples were read, where that is not as they stand."""


@dataclass(frozen=True, slots=True)
class JobListing:
    """Which jobs to list. `after` is OpenAI's cursor, `page` Mistral's number from 0."""

    page: int = 0
    page_size: int = 100
    after: str | None = None
    model: str | None = None
    status: str | None = None
    suffix: str | None = None
    created_after: float | None = None
    created_before: float | None = None
    key_id: str | None = None
    details: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JobPage:
    jobs: list[FineTuningJob] = field(default_factory=list)
    total: int = 0
    has_more: bool = False


class FineTuningJobs:
    """Waits for the disk: call it from other threads than the event loop's.

    `folder` is shared by the servers that use one state folder; `place` is its name in the database. `is_only_place`:
    no server on this database has another.
    """

    def __init__(
        self, database: Database, folder: Path, *, is_only_place: bool = False, quotas: Quotas = NO_QUOTAS
    ) -> None:
        self.database = database
        self.quotas = quotas
        self.folder = folder
        self.entries = IdFolder(
            LocalFileSystem(), str(folder.absolute()), what="folders of fine-tuning jobs", is_sharded=False
        )
        self._is_only_place = is_only_place
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.place = _place(folder / "place")

    def folder_of(self, job_id: str) -> Path:
        if not ID.match(job_id):
            raise ValueError("not an id of a job")
        return self.folder / job_id

    def add(self, job: FineTuningJob, mark: Mark = unmarked) -> FineTuningJob:
        """Durable when this returns; its folder must be whole by then. Raises ApiError beyond a quota."""
        with self.database.write() as session:
            self.quotas.require(session, job.owner, job.key_id, max_fine_tuning_jobs=1, max_models=1)
            session.add(job)
            session.flush()
            set_status(session, job, job.status)
            mark(session, job.id)
        return job

    def get(self, job_id: str, owner: str) -> FineTuningJob:
        """Raises ApiError 404 for a job that is not there, or not this owner's."""
        with self.database.read() as session:
            return _find(session, job_id, owner)

    def events(self, job_id: str) -> list[FineTuningEvent]:
        """The oldest first."""
        query = select(FineTuningEvent).where(FineTuningEvent.job_id == job_id).order_by(FineTuningEvent.id)
        with self.database.read() as session:
            return list(session.scalars(query))

    def list(self, owner: str, listing: JobListing) -> JobPage:
        """The newest first."""
        conditions: list[ColumnElement[bool]] = [FineTuningJob.owner == owner]
        for column, value in (
            (FineTuningJob.model, listing.model),
            (FineTuningJob.status, listing.status),
            (FineTuningJob.suffix, listing.suffix),
            (FineTuningJob.key_id, listing.key_id),
        ):
            if value is not None:
                conditions.append(column == value)
        if listing.created_after is not None:
            conditions.append(FineTuningJob.created_at > listing.created_after)
        if listing.created_before is not None:
            conditions.append(FineTuningJob.created_at < listing.created_before)
        conditions += [FineTuningJob.details[name].as_string() == value for name, value in listing.details.items()]
        with self.database.read() as session:
            start = None if listing.after is None else _find(session, listing.after, owner)
            return JobPage(
                *select_page(
                    session, FineTuningJob, conditions, page=listing.page, page_size=listing.page_size, start=start
                )
            )

    def start(self, job_id: str, owner: str, mark: Mark = unmarked) -> FineTuningJob:
        """Raises ApiError 409 for a job that does not wait for it."""
        with self.database.write() as session:
            job = _find(session, job_id, owner, lock=True)
            if job.status in (QUEUED, VALIDATING):
                job.auto_start = True
            elif job.status == VALIDATED:
                set_status(session, job, STARTED)
            else:
                raise ApiError(409, f"the job is {job.status}; only one that is VALIDATED can start", code="job_state")
            mark(session, job.id)
        return job

    def cancel(self, job_id: str, owner: str) -> FineTuningJob:
        """A job with no process is over at once, others when theirs has ended. Raises ApiError 409 for one that has
        ended otherwise."""

        def cancel(session: Session) -> FineTuningJob:
            job = _find(session, job_id, owner, lock=True)
            if job.status in (QUEUED, VALIDATED, STARTED):
                set_status(session, job, CANCELLED)
            elif job.status in (VALIDATING, RUNNING):
                set_status(session, job, CANCELLATION_REQUESTED)
            elif job.status not in (CANCELLATION_REQUESTED, CANCELLED):
                raise ApiError(409, f"the job has ended: its status is {job.status}", code="job_state")
            return job

        job = self.database.free(cancel)
        if job.status == CANCELLED:
            clear(self.folder_of(job_id), keep=None)
        return job

    def delete(self, job_id: str, owner: str) -> None:
        """Row and events; the model that the job has made stays. Raises ApiError 409 for a job that has not ended."""

        def delete(session: Session) -> bool:
            job = _find(session, job_id, owner, lock=True)
            if job.status not in ENDED:
                raise ApiError(409, f"the job is {job.status}; cancel it first", code="job_not_ended")
            session.delete(job)
            return session.scalar(select(FineTunedModel.name).where(FineTunedModel.job_id == job_id)) is not None

        if not self.database.free(delete):
            shutil.rmtree(self.folder_of(job_id), ignore_errors=True)

    def tidy(self) -> None:
        """Of the jobs of this place that have ended only the model stays; what is known besides is in the database. A
        model without a row is left to `sweep`."""
        query = (
            select(FineTuningJob.id, FineTuningJob.status, FineTunedModel.name)
            .outerjoin(FineTunedModel, FineTunedModel.job_id == FineTuningJob.id)
            .where(FineTuningJob.place == self.place, FineTuningJob.status.in_(ENDED))
        )
        here = self.entries.entries()
        with self.database.read() as session:
            ended = [row for row in session.execute(query) if row.id in here]
        for row in ended:
            folder = self.folder_of(row.id)
            if row.name is None and row.status != SUCCESS:
                clear(folder, keep=None)
            elif row.name is not None and (folder / MODEL).is_dir():  # an older copy of it may yet have to make it
                clear(folder, keep=MODEL)

    def forget(self, job_id: str, owner: str) -> None:
        """Row and folder of a job that was only to be estimated; one that is still checked is cancelled instead."""

        def forget(session: Session) -> bool:
            job = _find(session, job_id, owner, lock=True)
            if job.status == VALIDATING:
                set_status(session, job, CANCELLATION_REQUESTED)
                return False
            session.delete(job)
            return True

        if self.database.free(forget):
            shutil.rmtree(self.folder_of(job_id), ignore_errors=True)

    def moving(self) -> Sequence[FineTuningJob]:
        """The jobs of this place that something is to be done for, the oldest first."""
        query = (
            select(FineTuningJob)
            .where(FineTuningJob.place == self.place, FineTuningJob.status.in_(MOVING))
            .order_by(FineTuningJob.created_at)
        )
        with self.database.read() as session:
            return session.scalars(query).all()

    def rows(self) -> Rows:
        """Of all jobs, whatever their owner. Those that go on and those whose model is there need their folder."""
        needed = select(FineTuningJob.id).where(
            FineTuningJob.status.in_((QUEUED, VALIDATING, VALIDATED, STARTED, RUNNING))
        )
        models = select(FineTunedModel.job_id)
        if not self._is_only_place:
            needed = needed.where(FineTuningJob.place == self.place)
            models = models.where(FineTunedModel.place == self.place)
        everyones = select(FineTuningJob.id).union(select(FineTunedModel.job_id))
        with self.database.read() as session:
            known = frozenset(session.scalars(everyones))
            return Rows(known, dict.fromkeys(session.scalars(needed.union(models))))

    def elsewhere(self) -> tuple[int, int]:
        """How many jobs that have not ended, and models, are those of other places."""
        jobs = select(FineTuningJob.id).where(FineTuningJob.place != self.place, FineTuningJob.status.not_in(ENDED))
        models = select(FineTunedModel.name).where(FineTunedModel.place != self.place)
        with self.database.read() as session:
            num_jobs, num_models = (
                session.scalar(select(func.count()).select_from(each.subquery())) or 0 for each in (jobs, models)
            )
        return num_jobs, num_models

    def take_over(self) -> None:
        """Jobs and models whose folder is here are this place's from now on."""
        here = self.entries.entries()
        with self.database.write() as session:
            for job in session.scalars(select(FineTuningJob).where(FineTuningJob.place != self.place)):
                job.place = self.place if job.id in here else job.place
            for model in session.scalars(select(FineTunedModel).where(FineTunedModel.place != self.place)):
                model.place = self.place if model.job_id in here else model.place

    def sweep(self) -> None:
        """Move folders of jobs that were never taken in to the trash, and of models that have been deleted."""
        deleted = select(FineTuningJob.id).where(
            FineTuningJob.status == SUCCESS, FineTuningJob.id.not_in(select(FineTunedModel.job_id))
        )
        with self.database.read() as session:
            done_with = frozenset(session.scalars(deleted))
        self.entries.sweep(self.rows().known - done_with)

    def update(self, job: FineTuningJob, status: str | None = None, **values: Any) -> FineTuningJob | None:
        """Set fields, and the status if the job still has that of `job`: None where its owner was faster."""

        def change(session: Session) -> FineTuningJob | None:
            row = session.get(FineTuningJob, job.id, with_for_update=True)
            if row is None or row.status != job.status:
                return None
            for name, value in values.items():
                setattr(row, name, value)
            row.modified_at = time.time()
            if status is not None:
                set_status(session, row, status)
            return row

        if status == CANCELLED:
            return self.database.free(change)
        with self.database.write() as session:
            return change(session)

    def say(self, job_id: str, name: str, entries: Sequence[Mapping[str, Any]]) -> None:
        """An event for each entry."""
        now = time.time()
        with self.database.write() as session:
            session.add_all(
                FineTuningEvent(job_id=job_id, name=name, data=dict(entry), created_at=now) for entry in entries
            )


def clear(folder: Path, *, keep: Path | None) -> None:
    """Remove a folder and all that is in it, but for what lies at `keep`, relative to it."""
    if keep is None:
        shutil.rmtree(folder, ignore_errors=True)
        return
    kept = folder / keep
    for place in (folder, *(folder / parent for parent in keep.parents if parent != Path())):
        with suppress(FileNotFoundError):
            for path in place.iterdir():
                if path == kept or path in kept.parents:
                    continue
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)


def set_status(session: Session, job: FineTuningJob, status: str) -> None:
    now = time.time()
    job.status, job.modified_at = status, now
    if status in ENDED:
        job.finished_at = now
    data = {"status": status} | ({"error": job.error} if job.error and status in ENDED else {})
    session.add(FineTuningEvent(job_id=job.id, name=STATUS_UPDATED, data=data, created_at=now))


def _find(session: Session, job_id: str, owner: str, *, lock: bool = False) -> FineTuningJob:
    if ID.match(job_id):
        query = select(FineTuningJob).where(FineTuningJob.id == job_id, FineTuningJob.owner == owner)
        found = session.scalar(query.with_for_update() if lock else query)
        if found is not None:
            return found
    raise ApiError(404, "job does not exist", param="job_id", code="job_not_found")


def _place(path: Path) -> str:
    """The name in `path`, made up by whichever server comes first."""
    if path.exists():
        return _read_place(path)
    made = path.with_name(f".place-{uuid.uuid4()}")
    durable.write(made, str(uuid.uuid4()))
    try:
        path.hardlink_to(made)
        durable.sync(path)
    except FileExistsError:
        pass
    finally:
        made.unlink()
    return _read_place(path)


def _read_place(path: Path) -> str:
    place = path.read_text("utf-8", "replace")
    if not ID.match(place):
        raise ConfigError(f"{path} is damaged; delete it, then run tramontane adopt")
    return place

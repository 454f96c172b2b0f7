"""Batches made without HTTP."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tramontane.server.auth import OWNER, Caller
from tramontane.server.batch.create import create_batch
from tramontane.server.batch.jobs import BatchJobs
from tramontane.server.batch.requests import NewBatch
from tramontane.server.files.files import Files
from tramontane.server.lease import LeaseWatch
from tramontane.server.store.contents import ContentStore
from tramontane.server.store.database import Database
from tramontane.server.store.tables import BatchJob

CHAT = "/v1/chat/completions"


def jobs_in(database: Database, folder: Path) -> BatchJobs:
    return BatchJobs(database, ContentStore(folder))


def make(
    jobs: BatchJobs,
    requests: int | Sequence[Mapping[str, Any]] = 3,
    *,
    caller: Caller = OWNER,
    timeout_s: float = 3600.0,
    dialect: str = "mistral",
    owner: str | None = None,
) -> BatchJob:
    """`requests` may be a number of numbered ones."""
    if isinstance(requests, int):
        requests = [{"custom_id": f"id-{n}", "body": {"n": n}} for n in range(requests)]
    new = NewBatch(
        dialect=dialect, endpoint=CHAT, needs_model=False, timeout_s=timeout_s, requests=requests, model="wind"
    )
    caller = caller if owner is None else replace(caller, owner=owner)
    return create_batch(jobs, Files(jobs.database, jobs.contents), caller, new)


def result(line: int, status_code: int = 200) -> dict[str, object]:
    return {"line": line, "custom_id": f"id-{line}", "status_code": status_code, "body": f'{{"message": "m{line}"}}'}


def lines_of(jobs: BatchJobs, file_id: str | None) -> list[str]:
    if file_id is None:
        return []
    with jobs.contents.open(file_id) as file:
        return file.read().decode().splitlines()


class Server:
    """One that claims jobs, with a monotonic clock of its own, which tests move."""

    def __init__(self, jobs: BatchJobs) -> None:
        self.jobs, self.holder, self.now = jobs, str(uuid.uuid4()), 0.0
        self.watch = LeaseWatch(lambda: self.now)
        self.working: list[str] = []

    def claim(self, *, max_per_owner: int | None = None) -> BatchJob | None:
        job = self.jobs.claim(self.holder, self.watch, working=self.working, max_per_owner=max_per_owner)
        self.working += [] if job is None else [job.id]
        return job


@contextlib.contextmanager
def wall_clock_at(seconds: float) -> Iterator[None]:
    """The wall clock of this process has jumped by so much, meanwhile."""
    true = time.time
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.time", lambda: true() + seconds)
        yield

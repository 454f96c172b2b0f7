"""The end of a batch: its results become files, and its row says how it ended, all at once or not at all."""

from __future__ import annotations

import json
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from sqlalchemy import delete, select

from tramontane.server.batch.jobs import TIMEOUT_EXCEEDED, BatchJobs, held
from tramontane.server.batch.requests import read_items
from tramontane.server.files.files import WORKSPACE
from tramontane.server.lease import RENEW_S
from tramontane.server.store.contents import Incoming
from tramontane.server.store.tables import BatchJob, BatchResult, File

T = TypeVar("T")

TOGETHER = 256  # rows read at a time
MAX_MESSAGES = 100  # that differ, in `errors`
EXPIRED = {"code": "batch_expired", "message": "not begun or not ended before the batch's time was over"}


class _ResultFile:
    """Lines of results on their way into a file that exists if there is any."""

    def __init__(self, incoming: Incoming, job: BatchJob, kind: str) -> None:
        self.incoming = incoming
        self.num_lines = 0
        self._job = job
        self._kind = kind

    def write(self, line: int, custom_id: str, response: dict[str, Any] | None, error: dict[str, Any] | None) -> None:
        result_id = f"batch-{self._job.id[:8]}-{line}-{uuid.uuid5(uuid.UUID(self._job.id), str(line))}"
        entry = {"id": result_id, "custom_id": custom_id, "response": response, "error": error}
        self.incoming.write(json.dumps(entry).encode() + b"\n")
        self.num_lines += 1

    def row(self) -> File:
        now, expires_s = time.time(), self._job.output_expires_s
        return File(
            id=self.incoming.id,
            owner=self._job.owner,
            key_id=self._job.key_id,
            filename=f"{self._job.id}_{self._kind}.jsonl",
            purpose="batch_output" if self._job.dialect == "openai" else "batch",
            sample_type="batch_result" if self._kind == "output" else "batch_error",
            source="mistral",
            size_bytes=self.incoming.size_bytes,
            num_lines=self.num_lines,
            mimetype="application/jsonl",
            signature=self.incoming.sha256,
            visibility=WORKSPACE,
            created_at=now,
            expires_at=None if expires_s is None else now + expires_s,
        )


def finish(jobs: BatchJobs, job_id: str, holder: str, status: str, problems: Sequence[str] = ()) -> BatchJob:
    """Write the result files and end the job with `status`; `problems` are the batch's own. Raises LeaseLostError, and
    DiskFullError with nothing changed."""
    job = jobs.renew(job_id, holder)
    messages = Counter(problems)
    with jobs.contents.incoming() as good, jobs.contents.incoming() as bad:
        output, failures = _ResultFile(good, job, "output"), _ResultFile(bad, job, "errors")
        done = set()
        for result in _renewing(_results(jobs, job_id), jobs, job_id, holder):
            done.add(result.line)
            body = json.loads(result.body)
            is_failure = result.status_code >= 400
            target = failures if is_failure else output
            target.write(result.line, result.custom_id, {"status_code": result.status_code, "body": body}, None)
            if is_failure:
                messages[str(body.get("message"))[:500]] += 1
        if status == TIMEOUT_EXCEEDED:
            with jobs.contents.open(job.requests_id) as requests:
                for item in _renewing(read_items(requests, done), jobs, job_id, holder):
                    failures.write(item.line, item.custom_id, None, EXPIRED)
        written = [file for file in (output, failures) if file.num_lines]
        published = jobs.contents.published(*(file.incoming for file in written))
        with published, jobs.database.write() as session:
            job = held(session, job_id, holder)
            session.add_all(file.row() for file in written)
            job.output_file = output.incoming.id if output in written else None
            job.error_file = failures.incoming.id if failures in written else None
            job.errors = [{"message": text, "count": n} for text, n in messages.most_common(MAX_MESSAGES)]
            job.status, job.completed_at = status, time.time()
            job.lease_holder = None
            session.execute(delete(BatchResult).where(BatchResult.job_id == job_id))
    jobs.contents.delete(job.requests_id)
    return job


def _results(jobs: BatchJobs, job_id: str) -> Iterator[BatchResult]:
    query = select(BatchResult).where(BatchResult.job_id == job_id).order_by(BatchResult.line)
    with jobs.database.read() as session:
        yield from session.scalars(query.execution_options(yield_per=TOGETHER))


def _renewing(entries: Iterator[T], jobs: BatchJobs, job_id: str, holder: str) -> Iterator[T]:
    """The same, and the job's lease is kept meanwhile."""
    renewed = time.monotonic()
    for entry in entries:
        yield entry
        if time.monotonic() - renewed > RENEW_S:
            jobs.renew(job_id, holder)
            renewed = time.monotonic()

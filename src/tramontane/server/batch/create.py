"""Making a batch of files or of requests given inline, refused with the lines that are wrong before anything runs."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from tramontane.data.sample_files import FileCheck, LineProblem, check_file
from tramontane.errors import DataError
from tramontane.server.auth import Caller
from tramontane.server.batch.jobs import QUEUED, BatchJobs
from tramontane.server.batch.request_line import parse_request_line
from tramontane.server.batch.requests import NewBatch, RequestWriter
from tramontane.server.errors import ApiError
from tramontane.server.files.files import Files
from tramontane.server.files.formats import MAX_BATCH_LINES, SHOWN_PROBLEMS, check_line, refusal
from tramontane.server.idempotency.records import Mark, unmarked
from tramontane.server.store.tables import BatchJob


def create_batch(jobs: BatchJobs, files: Files, caller: Caller, new: NewBatch, mark: Mark = unmarked) -> BatchJob:
    """Durable when this returns. Raises ApiError 404 for a file that is not there, 422 naming the first wrong lines,
    and DiskFullError. Waits for the disk."""
    with jobs.contents.incoming() as incoming:
        writer = RequestWriter(incoming, new)
        for file_id in new.input_files:
            _add_file(writer, files, file_id, caller, new.files_param)
        if new.requests:
            _add_inline(writer, new.requests)
        now = time.time()
        job = BatchJob(
            id=str(uuid.uuid4()),
            owner=caller.owner,
            key_id=caller.key_id,
            dialect=new.dialect,
            endpoint=new.endpoint,
            model=new.model,
            details=new.details,
            output_expires_s=new.output_expires_s,
            input_files=list(new.input_files),
            status=QUEUED,
            created_at=now,
            expires_at=now + new.timeout_s,
            num_requests=writer.num_requests,
            num_succeeded=0,
            num_failed=0,
            errors=[],
            lease_count=0,
        )
        return jobs.add(incoming, job, mark)


def _add_file(writer: RequestWriter, files: Files, file_id: str, caller: Caller, param: str) -> None:
    row = files.get(file_id, caller)
    if row.purpose != "batch":
        raise ApiError(422, f"{param}: file {file_id} is for {row.purpose}; upload it with purpose batch", param=param)

    def add(value: Mapping[str, Any]) -> None:
        if writer.num_requests == MAX_BATCH_LINES:
            raise DataError(f"a batch has at most {MAX_BATCH_LINES} requests")
        writer.add(parse_request_line(value))

    with files.contents.local(row.id) as path:
        check = check_file(path, add, max_problems=SHOWN_PROBLEMS, check_json=check_line)
    if check.num_invalid or not check.num_valid:
        raise refusal(check, param, f"file {file_id}")


def _add_inline(writer: RequestWriter, requests: Sequence[Mapping[str, Any]]) -> None:
    problems = []
    for number, value in enumerate(requests):
        try:
            writer.add(parse_request_line(value))
        except DataError as error:
            problems.append(LineProblem(number, str(error)))
    if problems:
        check = FileCheck(len(requests) - len(problems), len(problems), tuple(problems[:SHOWN_PROBLEMS]))
        raise refusal(check, "requests", "requests", unit="entry")

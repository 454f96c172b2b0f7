"""/v1/batches: batches as OpenAI's API has them. Both APIs show the same batches."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from tramontane.server.batch.jobs import (
    CANCELLATION_REQUESTED,
    CANCELLED,
    FAILED,
    QUEUED,
    RUNNING,
    SUCCESS,
    TIMEOUT_EXCEEDED,
    JobListing,
)
from tramontane.server.batch.requests import NewBatch
from tramontane.server.endpoint import BODIES
from tramontane.server.routes.batch_answers import cancelled, made
from tramontane.server.routes.batch_jobs import BatchCaller, check_endpoint, seconds
from tramontane.server.schema.base import json_body, validate
from tramontane.server.schema.batches import BatchList, BatchObject, BatchRequest, RequestCounts
from tramontane.server.services import ServicesDep
from tramontane.server.store.tables import BatchJob

STATUS = {
    QUEUED: "in_progress",  # its file was checked when the batch was made
    RUNNING: "in_progress",
    CANCELLATION_REQUESTED: "cancelling",
    SUCCESS: "completed",
    FAILED: "failed",
    TIMEOUT_EXCEEDED: "expired",
    CANCELLED: "cancelled",
}

router = APIRouter(tags=["batches"])
BODIES["BatchRequest"] = BatchRequest


@router.post(
    "/v1/batches",
    summary="Hand over a file of requests",
    responses={200: {"model": BatchObject}},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/BatchRequest"}}},
        }
    },
)
async def create(request: Request, services: ServicesDep, caller: BatchCaller) -> Response:
    async with json_body(request, caller) as data:
        body = validate(BatchRequest, data)
    new = NewBatch(
        dialect="openai",
        endpoint=body.endpoint,
        needs_model=check_endpoint(body.endpoint),
        timeout_s=body.timeout_hours * 3600,
        input_files=[body.input_file_id],
        details=None if body.metadata is None else dict(body.metadata),
        output_expires_s=None if body.output_expires_after is None else body.output_expires_after.seconds,
        files_param="input_file_id",
    )
    return await made(request, services, caller, new, batch_object)


@router.get("/v1/batches", summary="List batches")
def list_batches(
    services: ServicesDep,
    caller: BatchCaller,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 20,
) -> BatchList:
    found = services.batch_jobs.list(caller.owner, JobListing(page_size=limit, after=after))
    data = [batch_object(job) for job in found.jobs]
    return BatchList(
        data=data,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
        has_more=found.has_more,
    )


@router.get("/v1/batches/{job_id}", summary="Describe a batch")
def retrieve(job_id: str, services: ServicesDep, caller: BatchCaller) -> BatchObject:
    return batch_object(services.batch_jobs.get(job_id, caller.owner))


@router.post(
    "/v1/batches/{job_id}/cancel",
    summary="Cancel a batch; what is answered by then can be downloaded",
    responses={200: {"model": BatchObject}},
)
async def cancel(job_id: str, request: Request, services: ServicesDep, caller: BatchCaller) -> Response:
    return await cancelled(request, services, caller, job_id, batch_object)


def batch_object(job: BatchJob) -> BatchObject:
    def ended_as(status: str) -> int | None:
        return seconds(job.completed_at) if job.status == status else None

    problems = [{"code": "batch_error", **problem} for problem in job.errors] if job.status == FAILED else None
    return BatchObject(
        id=job.id,
        endpoint=job.endpoint,
        errors=None if problems is None else {"object": "list", "data": problems},
        input_file_id=job.input_files[0] if job.input_files else "",
        completion_window=f"{round((job.expires_at - job.created_at) / 3600)}h",
        status=STATUS[job.status],
        output_file_id=job.output_file,
        error_file_id=job.error_file,
        created_at=int(job.created_at),
        in_progress_at=seconds(job.started_at),
        expires_at=int(job.expires_at),
        completed_at=ended_as(SUCCESS),
        failed_at=ended_as(FAILED),
        expired_at=ended_as(TIMEOUT_EXCEEDED),
        cancelling_at=seconds(job.cancelled_at),
        cancelled_at=ended_as(CANCELLED),
        request_counts=RequestCounts(total=job.num_requests, completed=job.num_succeeded, failed=job.num_failed),
        metadata=job.details,
    )

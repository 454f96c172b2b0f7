"""/v1/batch/jobs: batches as Mistral's API has them."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import jiter
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response

from tramontane.server.auth import Caller, authorize
from tramontane.server.batch.jobs import STATUSES, JobListing
from tramontane.server.batch.requests import NewBatch
from tramontane.server.endpoint import BODIES, ENDPOINTS
from tramontane.server.errors import ApiError
from tramontane.server.routes.batch_answers import cancelled, made
from tramontane.server.schema.base import json_body, validate_sent
from tramontane.server.schema.batches import (
    MAX_INLINE,
    BatchJobList,
    BatchJobObject,
    BatchJobRequest,
    DeletedBatchJob,
    Moment,
    details_asked_for,
)
from tramontane.server.services import Services, ServicesDep
from tramontane.server.store.tables import BatchJob

MAX_INLINE_BYTES = 64 * 2**20
FILTERS = frozenset(
    ("page", "page_size", "model", "agent_id", "metadata", "created_after", "created_by_me", "status", "order_by")
)

router = APIRouter(tags=["batches"])
BatchCaller = Annotated[Caller, Depends(authorize("batch"))]
BODIES["BatchJobRequest"] = BatchJobRequest


def check_endpoint(endpoint: str) -> bool:
    """Whether its bodies must name a model. Raises ApiError 422 for a path that no batch can call."""
    known = {path: route for path, route in ENDPOINTS.items() if path.startswith("/v1/")}
    if endpoint not in known:
        message = f"endpoint must be one of {', '.join(sorted(known))}"
        entry = {"type": "value_error", "loc": ["body", "endpoint"], "msg": message, "input": endpoint[:100]}
        raise ApiError(422, message, param="endpoint", detail=[entry])
    return bool(known[endpoint].body.model_fields["model"].is_required())


@router.post(
    "/v1/batch/jobs",
    summary="Hand over many requests at once",
    responses={200: {"model": BatchJobObject}},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/BatchJobRequest"}}},
        }
    },
)
async def create(request: Request, services: ServicesDep, caller: BatchCaller) -> Response:
    async with json_body(request, caller) as data:
        body = await validate_sent(request, BatchJobRequest, data)
        needs_model = check_endpoint(body.endpoint)
        registry = services.registry
        model = None if body.model is None else registry.resolve(body.model, caller.owner)
        new = NewBatch(
            dialect="mistral",
            endpoint=body.endpoint,
            needs_model=needs_model,
            timeout_s=body.timeout_hours * 3600,
            model=body.model,
            is_model=lambda name: registry.look_up(name, caller.owner) is model,
            input_files=body.input_files or (),
            requests=[entry.model_dump() for entry in body.requests or ()],
            details=None if body.metadata is None else dict(body.metadata),
        )

        return await made(request, services, caller, new, job_object)


@router.get("/v1/batch/jobs", summary="List batches; any other query field is one of their metadata")
def list_jobs(
    request: Request,
    services: ServicesDep,
    caller: BatchCaller,
    page: Annotated[int, Query(ge=0, le=10**6)] = 0,
    page_size: Annotated[int, Query(ge=1, le=1000)] = 100,
    model: str | None = None,
    agent_id: str | None = None,
    metadata: str | None = None,
    created_after: Moment | None = None,
    created_by_me: bool = False,
    status: Annotated[list[str] | None, Query()] = None,
    order_by: Literal["created", "-created"] = "-created",
) -> BatchJobList:
    unknown = sorted(set(status or ()) - set(STATUSES))
    if unknown:
        raise ApiError(422, f"status {unknown[0][:64]!r} is none of {', '.join(STATUSES)}", param="status")
    details = {name: value for name, value in request.query_params.items() if name not in FILTERS}
    details = details_asked_for({**details, **_metadata(metadata)})
    if agent_id is not None:  # no batch has one
        return BatchJobList(data=[], total=0)
    found = services.batch_jobs.list(
        caller.owner,
        JobListing(
            page=page,
            page_size=page_size,
            is_ascending=order_by == "created",
            model=model,
            statuses=status or (),
            created_after=None if created_after is None else created_after.timestamp(),
            key_id=caller.key_id if created_by_me else None,
            details=details,
        ),
    )
    return BatchJobList(data=[job_object(job) for job in found.jobs], total=found.total)


def _metadata(text: str | None) -> dict[str, Any]:
    """Written as one JSON object."""
    try:
        value = jiter.from_json((text or "{}").encode(), catch_duplicate_keys=True)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ApiError(422, "metadata must be a JSON object of texts", param="metadata")
    return value


@router.get("/v1/batch/jobs/{job_id}", summary="Describe a batch", responses={200: {"model": BatchJobObject}})
def retrieve(job_id: str, services: ServicesDep, caller: BatchCaller, inline: bool | None = None) -> Response:
    job = services.batch_jobs.get(job_id, caller.owner)
    outputs = _outputs(services, job) if inline else None
    fields = job_object(job).model_dump()
    if outputs is None:
        return JSONResponse(fields)
    # written as they are: to read megabytes and write them again would hold up everyone else
    rest = json.dumps({name: value for name, value in fields.items() if name != "outputs"})
    return Response(b'%s, "outputs": [%s]}' % (rest[:-1].encode(), b",".join(outputs)), media_type="application/json")


@router.post(
    "/v1/batch/jobs/{job_id}/cancel",
    summary="Cancel a batch; what is answered by then can be downloaded",
    responses={200: {"model": BatchJobObject}},
)
async def cancel(job_id: str, request: Request, services: ServicesDep, caller: BatchCaller) -> Response:
    return await cancelled(request, services, caller, job_id, job_object)


@router.delete("/v1/batch/jobs/{job_id}", summary="Forget a batch that has ended; its result files stay")
def delete(job_id: str, services: ServicesDep, caller: BatchCaller) -> DeletedBatchJob:
    services.batch_jobs.delete(job_id, caller.owner)
    return DeletedBatchJob(id=job_id)


def _outputs(services: Services, job: BatchJob) -> list[bytes] | None:
    """All results of a batch that has ended, each as JSON, those of failed requests last; None before. Raises ApiError
    400 for more than one answer should hold."""
    if job.completed_at is None:
        return None
    found = []
    for file_id in (job.output_file, job.error_file):
        if file_id is None:
            continue
        row = services.files.get(file_id, job)
        if job.num_requests > MAX_INLINE or row.size_bytes > MAX_INLINE_BYTES:
            raise ApiError(400, "there is too much to be given inline; download output_file", param="inline")
        with services.files.contents.open(file_id) as file:
            found += [line.rstrip() for line in file]
    return found


def job_object(job: BatchJob) -> BatchJobObject:
    return BatchJobObject(
        id=job.id,
        input_files=job.input_files,
        endpoint=job.endpoint,
        model=job.model,
        metadata=job.details,
        output_file=job.output_file,
        error_file=job.error_file,
        errors=job.errors,  # type: ignore[arg-type]  # pydantic makes models of them
        status=job.status,
        created_at=int(job.created_at),
        started_at=seconds(job.started_at),
        completed_at=seconds(job.completed_at),
        total_requests=job.num_requests,
        completed_requests=job.num_succeeded + job.num_failed,
        succeeded_requests=job.num_succeeded,
        failed_requests=job.num_failed,
    )


def seconds(at: float | None) -> int | None:
    return None if at is None else int(at)

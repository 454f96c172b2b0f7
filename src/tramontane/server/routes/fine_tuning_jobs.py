"""/v1/fine_tuning/jobs: jobs as Mistral's API and OpenAI's have them, on the same paths."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

from tramontane.server.auth import Caller, authorize
from tramontane.server.dialect import dialect_of
from tramontane.server.endpoint import BODIES
from tramontane.server.errors import ApiError, invalid_lines
from tramontane.server.fine_tuning.command import JobFolder
from tramontane.server.fine_tuning.create import NewJob, create_job, tunable
from tramontane.server.fine_tuning.jobs import FAILED_VALIDATION, INVALID_LINE, STATUSES, VALIDATED, JobListing
from tramontane.server.fine_tuning.mistral_view import detailed_job, dry_run, job_object
from tramontane.server.fine_tuning.openai_view import openai_checkpoints, openai_events, openai_job
from tramontane.server.fine_tuning.progress import read_progress
from tramontane.server.idempotency.records import Mark, unmarked
from tramontane.server.schema.base import json_body, validate
from tramontane.server.schema.batches import Moment, details_asked_for
from tramontane.server.schema.fine_tuning import (
    DeletedJob,
    DetailedJobObject,
    JobList,
    JobObject,
    JobRequest,
    OpenaiCheckpointList,
    OpenaiEventList,
    OpenaiHyperparameters,
    OpenaiJobList,
    OpenaiJobObject,
    OpenaiJobRequest,
)
from tramontane.server.services import Services, ServicesDep
from tramontane.server.store.tables import FineTuningJob

PATH = "/v1/fine_tuning/jobs"
SETTLED_S = 20.0
"""A new job is answered once its samples are checked and its cost is known, or after this long without."""
DRY_RUN_S = 600.0

router = APIRouter(tags=["fine-tuning"])
TuningCaller = Annotated[Caller, Depends(authorize("fine_tuning"))]
BODIES |= {"JobRequest": JobRequest, "OpenaiJobRequest": OpenaiJobRequest}
Row = TypeVar("Row", bound=BaseModel)


def shown(request: Request, services: Services, job: FineTuningJob) -> DetailedJobObject | OpenaiJobObject:
    """Where the request shows nothing, as the API has it that the job was made by."""
    if dialect_of(request, {}, "openai" if job.dialect == "openai" else "mistral") == "openai":
        return openai_job(job)
    events = services.fine_tuning_jobs.events(job.id)
    return detailed_job(job, events, services.settings.price_per_hour)


def _answer(request: Request, services: Services, job: FineTuningJob) -> Response:
    return JSONResponse(shown(request, services, job).model_dump())


@router.post(
    PATH,
    summary="Train a model on your samples",
    responses={200: {"model": JobObject | OpenaiJobObject}},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {
                        "anyOf": [
                            {"$ref": "#/components/schemas/JobRequest"},
                            {"$ref": "#/components/schemas/OpenaiJobRequest"},
                        ]
                    }
                }
            },
        }
    },
)
async def create(
    request: Request,
    services: ServicesDep,
    caller: TuningCaller,
    dry_run_only: Annotated[bool, Query(alias="dry_run")] = False,
) -> Response:
    async with json_body(request, caller) as data:
        if "training_file" in data:
            new = _from_openai(services, caller, validate(OpenaiJobRequest, data))
        else:
            new = _from_mistral(services, caller, validate(JobRequest, data), is_dry_run=dry_run_only)
    if not services.settings.fine_tuning_jobs:
        raise ApiError(403, "this server trains nothing (fine_tuning_jobs=0)", code="fine_tuning_off")
    runner, price = services.fine_tuning_runner, services.settings.price_per_hour

    async def begin(mark: Mark) -> FineTuningJob:
        jobs, files = services.fine_tuning_jobs, services.files
        job = await services.checks.run(caller.owner, create_job, jobs, files, caller, new, mark)
        runner.wake()
        return job

    async def find(job_id: str) -> Response:
        job = await runner.settled(job_id, caller.owner, within_s=SETTLED_S)
        answer = openai_job(job) if new.dialect == "openai" else job_object(job, price)
        return JSONResponse(answer.model_dump())

    async def make(mark: Mark) -> Response:
        return await find((await begin(mark)).id)

    if dry_run_only:  # which leaves nothing
        job = await begin(unmarked)
        try:
            job = await runner.settled(job.id, caller.owner, within_s=DRY_RUN_S)
            if job.status != VALIDATED:
                raise await asyncio.to_thread(_refusal, services, job)
            return JSONResponse(dry_run(job, price).model_dump())
        finally:
            await asyncio.to_thread(services.fine_tuning_jobs.forget, job.id, caller.owner)
            runner.wake()
    return await services.idempotency.once(request, caller, make, find)


def _from_mistral(services: Services, caller: Caller, body: JobRequest, *, is_dry_run: bool) -> NewJob:
    model = tunable(services.registry, body.model, caller.owner)
    context = model.llm.checkpoint.config.max_seq_len
    if body.hyperparameters.seq_len is not None and body.hyperparameters.seq_len > context:
        message = f"seq_len={body.hyperparameters.seq_len} is more than the {context} tokens of the model's context"
        entry = {"type": "value_error", "loc": ["body", "hyperparameters", "seq_len"], "msg": message}
        raise ApiError(422, message, param="hyperparameters.seq_len", detail=[entry])
    return NewJob(
        dialect="mistral",
        model=model.root or model.name,
        start=model.files,
        hyperparameters=body.hyperparameters.model_dump(exclude_none=True),
        weights=body.weights,
        validation_files=body.validation_files or (),
        job_type=body.job_type,
        suffix=body.suffix or None,
        auto_start=not is_dry_run and body.auto_start is not False,
        max_invalid_share=body.invalid_sample_skip_percentage,
        classifier_targets=[target.model_dump() for target in body.classifier_targets or ()],
    )


def _from_openai(services: Services, caller: Caller, body: OpenaiJobRequest) -> NewJob:
    model = tunable(services.registry, body.model, caller.owner)
    is_preference = body.method is not None and body.method.type == "dpo"
    asked = (body.method.hyperparameters if body.method else None) or body.hyperparameters or OpenaiHyperparameters()
    hyperparameters: dict[str, Any] = {"learning_rate": 1e-4 if is_preference else 5e-4, "warmup_fraction": 0.05}
    if asked.n_epochs != "auto":
        hyperparameters["epochs"] = float(asked.n_epochs)
    if asked.learning_rate_multiplier != "auto":
        hyperparameters["learning_rate"] *= asked.learning_rate_multiplier
    if is_preference and asked.beta != "auto":
        hyperparameters["beta"] = asked.beta
    return NewJob(
        dialect="openai",
        model=model.root or model.name,
        start=model.files,
        hyperparameters=hyperparameters,
        weights={body.training_file: 1.0},
        validation_files=[body.validation_file] if body.validation_file else (),
        job_type="completion",
        is_preference=is_preference,
        suffix=body.suffix or None,
        seed=body.seed or 0,
        details=None if body.metadata is None else dict(body.metadata),
        files_param="training_file",
        validation_param="validation_file",
    )


def _refusal(services: Services, job: FineTuningJob) -> ApiError:
    """Why nothing can be estimated."""
    if job.status != FAILED_VALIDATION:
        return ApiError(503, "the samples could not be checked in time; try again", code="not_validated")
    problems = [event.data for event in services.fine_tuning_jobs.events(job.id) if event.name == INVALID_LINE]
    return invalid_lines(
        job.error or "the samples are not sound",
        "training_files",
        [(problem["line"], f"file {problem['file_id']}: {problem['message']}") for problem in problems],
    )


@router.get(PATH, summary="List jobs", response_model=None)
def list_jobs(
    request: Request,
    services: ServicesDep,
    caller: TuningCaller,
    page: Annotated[int, Query(ge=0, le=10**6)] = 0,
    page_size: Annotated[int, Query(ge=1, le=1000)] = 100,
    model: str | None = None,
    created_after: Moment | None = None,
    created_before: Moment | None = None,
    created_by_me: bool = False,
    status: str | None = None,
    wandb_project: str | None = None,
    wandb_name: str | None = None,
    suffix: str | None = None,
    after: str | None = None,
    limit: Annotated[int | None, Query(ge=1, le=1000)] = None,
) -> JobList | OpenaiJobList:
    """`after` and `limit` are OpenAI's, and so are `metadata[NAME]`; the others are Mistral's."""
    if status is not None and status not in STATUSES:
        raise ApiError(422, f"status {status[:64]!r} is none of {', '.join(STATUSES)}", param="status")
    is_openai = dialect_of(request, request.query_params, services.settings.dialect) == "openai"
    if wandb_project is not None or wandb_name is not None:  # no job has one
        return JobList(data=[], total=0)
    details = {
        name.removeprefix("metadata[").removesuffix("]"): value
        for name, value in request.query_params.items()
        if name.startswith("metadata[")
    }
    listing = JobListing(
        page=page,
        page_size=(limit or 20) if is_openai else page_size,
        after=after,
        model=model,
        status=status,
        suffix=suffix,
        created_after=None if created_after is None else created_after.timestamp(),
        created_before=None if created_before is None else created_before.timestamp(),
        key_id=caller.key_id if created_by_me else None,
        details=details_asked_for(details),
    )
    found = services.fine_tuning_jobs.list(caller.owner, listing)
    if is_openai:
        return OpenaiJobList(data=[openai_job(job) for job in found.jobs], has_more=found.has_more)
    price = services.settings.price_per_hour
    return JobList(data=[job_object(job, price) for job in found.jobs], total=found.total)


@router.get(PATH + "/{job_id}", summary="Describe a job", response_model=None)
def retrieve(
    job_id: str, request: Request, services: ServicesDep, caller: TuningCaller
) -> DetailedJobObject | OpenaiJobObject:
    return shown(request, services, services.fine_tuning_jobs.get(job_id, caller.owner))


@router.post(PATH + "/{job_id}/start", summary="Begin a job that was validated")
async def start(job_id: str, request: Request, services: ServicesDep, caller: TuningCaller) -> Response:
    async def make(mark: Mark) -> Response:
        job = await asyncio.to_thread(services.fine_tuning_jobs.start, job_id, caller.owner, mark)
        services.fine_tuning_runner.wake()
        return await asyncio.to_thread(_answer, request, services, job)

    async def find(job_id: str) -> Response:
        job = await asyncio.to_thread(services.fine_tuning_jobs.get, job_id, caller.owner)
        return await asyncio.to_thread(_answer, request, services, job)

    return await services.idempotency.once(request, caller, make, find)


@router.post(PATH + "/{job_id}/cancel", summary="End a job; nothing is made of it")
async def cancel(job_id: str, request: Request, services: ServicesDep, caller: TuningCaller) -> Response:
    async def make(mark: Mark) -> Response:
        job = await asyncio.to_thread(services.fine_tuning_jobs.cancel, job_id, caller.owner)
        services.fine_tuning_runner.wake()
        return await asyncio.to_thread(_answer, request, services, job)

    return await services.idempotency.once(request, caller, make)


@router.delete(PATH + "/{job_id}", summary="Forget a job that has ended; the model it has made stays")
def delete(job_id: str, services: ServicesDep, caller: TuningCaller) -> DeletedJob:
    services.fine_tuning_jobs.delete(job_id, caller.owner)
    return DeletedJob(id=job_id)


@router.get(PATH + "/{job_id}/events", summary="What happened to a job, the newest first")
def list_events(
    job_id: str,
    services: ServicesDep,
    caller: TuningCaller,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 20,
) -> OpenaiEventList:
    job = services.fine_tuning_jobs.get(job_id, caller.owner)
    data, has_more = _page(openai_events(job, services.fine_tuning_jobs.events(job.id)), after, limit)
    return OpenaiEventList(data=data, has_more=has_more)


@router.get(PATH + "/{job_id}/checkpoints", summary="What was measured during a job, the newest first")
def list_checkpoints(
    job_id: str,
    services: ServicesDep,
    caller: TuningCaller,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 10,
) -> OpenaiCheckpointList:
    job = services.fine_tuning_jobs.get(job_id, caller.owner)
    data, has_more = _page(openai_checkpoints(job), after, limit)
    return OpenaiCheckpointList(
        data=data,
        has_more=has_more,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
    )


@router.get("/api/fine_tuning/jobs/{job_id}/losses", summary="Losses of every update of a job, for plots")
def losses(job_id: str, services: ServicesDep, caller: TuningCaller) -> dict[str, list[tuple[int, float]]]:
    """(step, nats per token) pairs of `train`, and of `held_out` where the job has any."""
    job = services.fine_tuning_jobs.get(job_id, caller.owner)
    if job.losses is not None:
        return job.losses
    return read_progress(JobFolder(services.fine_tuning_jobs.folder_of(job.id)).run).losses()


def _page(rows: Sequence[Row], after: str | None, limit: int) -> tuple[list[Row], bool]:
    """Raises ApiError 404 for a cursor that names no row."""
    start = 0
    if after is not None:
        ids: list[str] = [row.id for row in rows]  # type: ignore[attr-defined]
        if after not in ids:
            raise ApiError(404, "there is nothing to go on after", param="after")
        start = ids.index(after) + 1
    return list(rows[start : start + limit]), len(rows) > start + limit

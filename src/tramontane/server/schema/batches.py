"""The bodies that make batches: Mistral's and OpenAI's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from tramontane.server.schema.base import MAX_METADATA, ApiModel, at_most
from tramontane.server.validation import validation_error

MAX_INLINE = 10_000
WINDOW = re.compile(r"([1-9][0-9]{0,2})h\Z")

METADATA_NAME = r"^[A-Za-z0-9_.:@ -]{1,64}$"
MetadataName = Annotated[str, StringConstraints(pattern=METADATA_NAME)]
MetadataText = Annotated[str, Field(max_length=512, pattern=r"^[^\x00]*$")]  # no database takes NUL
Details = Annotated[dict[MetadataName, MetadataText], at_most(MAX_METADATA, "pairs")]
"""Metadata of a job, and what jobs are looked for by."""
DETAILS = TypeAdapter[dict[str, str]](Details, config=ConfigDict(strict=True))


def details_asked_for(values: Mapping[str, Any]) -> dict[str, str]:
    """Raises ApiError 422 for what is no metadata of any job."""
    try:
        return DETAILS.validate_python(values)
    except ValidationError as error:
        raise validation_error(error.errors(include_url=False), values, prefix=("query", "metadata")) from None


def moment(value: datetime) -> datetime:
    """In UTC, of one that may name no zone and then means the server's own."""
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("no clock shows this time") from None


Moment = Annotated[datetime, AfterValidator(moment)]


class InlineRequest(ApiModel):
    body: dict[str, Any]
    custom_id: str | None = None


class BatchJobRequest(ApiModel):
    """POST /v1/batch/jobs."""

    endpoint: str
    input_files: Annotated[list[str], Field(max_length=100)] | None = None
    requests: Annotated[list[InlineRequest], Field(max_length=MAX_INLINE)] | None = None
    model: str | None = None
    agent_id: None = None
    metadata: Details | None = None
    timeout_hours: int = Field(default=24, ge=1, le=168)

    @model_validator(mode="after")
    def _has_requests(self) -> BatchJobRequest:
        if bool(self.input_files) == bool(self.requests):
            raise ValueError("give either input_files or requests, and not none")
        return self


class OutputExpiry(ApiModel):
    anchor: Literal["created_at"]
    seconds: int = Field(ge=3600, le=30 * 86400)


class BatchRequest(ApiModel):
    """POST /v1/batches."""

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: Details | None = None
    output_expires_after: OutputExpiry | None = None  # from when the results are written

    @model_validator(mode="after")
    def _has_window(self) -> BatchRequest:
        match = WINDOW.match(self.completion_window)
        if match is None or int(match[1]) > 168:
            raise ValueError("completion_window must be a number of hours from 1h to 168h, such as 24h")
        return self

    @property
    def timeout_hours(self) -> int:
        return int(self.completion_window[:-1])


class BatchProblem(BaseModel):
    message: str
    count: int


class BatchJobObject(BaseModel):
    """A batch as Mistral's API shows it."""

    id: str
    object: Literal["batch"] = "batch"
    input_files: list[str]
    endpoint: str
    model: str | None
    agent_id: None = None
    metadata: dict[str, Any] | None
    output_file: str | None
    error_file: str | None
    errors: list[BatchProblem]
    outputs: list[dict[str, Any]] | None = None
    status: str
    created_at: int
    started_at: int | None
    completed_at: int | None
    total_requests: int
    completed_requests: int
    succeeded_requests: int
    failed_requests: int


class BatchJobList(BaseModel):
    object: Literal["list"] = "list"
    data: list[BatchJobObject]
    total: int


class DeletedBatchJob(BaseModel):
    id: str
    object: Literal["batch"] = "batch"
    deleted: Literal[True] = True


class RequestCounts(BaseModel):
    total: int
    completed: int
    failed: int


class BatchObject(BaseModel):
    """A batch as OpenAI's API shows it."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    errors: dict[str, Any] | None
    input_file_id: str
    completion_window: str
    status: str
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None = None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    metadata: dict[str, Any] | None


class BatchList(BaseModel):
    object: Literal["list"] = "list"
    data: list[BatchObject]
    first_id: str | None
    last_id: str | None
    has_more: bool

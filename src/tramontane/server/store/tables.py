"""The tables. Times are seconds since 1970; ids are random and never derived from what a client sent.

Every table that holds a client's objects has `owner`; no query for a client leaves it out.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

ID = String(36)
OWNER = String(64)


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy's own spelling
        str: Text,
        float: Double,
        dict[str, Any]: JSON,
        list[str]: JSON,
        list[dict[str, Any]]: JSON,
    }


class Key(Base):
    """A key lets its holder in; only the hash of its secret is kept."""

    __tablename__ = "keys"

    id: Mapped[str] = mapped_column(ID, primary_key=True)
    name: Mapped[str]
    owner: Mapped[str] = mapped_column(OWNER)
    secret_hash: Mapped[bytes] = mapped_column(LargeBinary(32))
    scopes: Mapped[list[str]]
    requests_per_minute: Mapped[int | None] = mapped_column(Integer)
    tokens_per_minute: Mapped[int | None] = mapped_column(Integer)
    max_concurrent_requests: Mapped[int | None] = mapped_column(Integer)
    max_files: Mapped[int | None] = mapped_column(Integer)
    max_stored_bytes: Mapped[int | None] = mapped_column(BigInteger)
    max_batches: Mapped[int | None] = mapped_column(Integer)  # that have not ended
    max_fine_tuning_jobs: Mapped[int | None] = mapped_column(Integer)  # that have not ended
    max_models: Mapped[int | None] = mapped_column(Integer)
    created_at: Mapped[float]
    expires_at: Mapped[float | None]
    revoked_at: Mapped[float | None]


class File(Base):
    """An uploaded file or a batch's results; the content is found in the ContentStore under the same id."""

    __tablename__ = "files"
    __table_args__ = (Index(None, "owner", "created_at"),)

    id: Mapped[str] = mapped_column(ID, primary_key=True)
    owner: Mapped[str] = mapped_column(OWNER)
    key_id: Mapped[str] = mapped_column(ID)  # the key it came with
    filename: Mapped[str]
    purpose: Mapped[str] = mapped_column(String(32))
    sample_type: Mapped[str] = mapped_column(String(32))
    source: Mapped[str] = mapped_column(String(32))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    num_lines: Mapped[int | None] = mapped_column(BigInteger)
    mimetype: Mapped[str | None]
    signature: Mapped[str]  # SHA-256 of the content
    visibility: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[float]
    expires_at: Mapped[float | None]


class BatchJob(Base):
    """A batch. Its requests lie in the ContentStore under `requests_id`, one JSON object a line, so that nothing that
    happens to the files it was made from can change it."""

    __tablename__ = "batch_jobs"
    __table_args__ = (Index(None, "owner", "created_at"), Index(None, "status", "lease_holder"))

    id: Mapped[str] = mapped_column(ID, primary_key=True)
    owner: Mapped[str] = mapped_column(OWNER)
    key_id: Mapped[str] = mapped_column(ID)
    dialect: Mapped[str] = mapped_column(String(16))  # whose API it came by
    endpoint: Mapped[str] = mapped_column(String(64))
    model: Mapped[str | None]
    details: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))  # the client's metadata
    input_files: Mapped[list[str]]
    requests_id: Mapped[str] = mapped_column(ID)
    requests_bytes: Mapped[int] = mapped_column(BigInteger, server_default="0")
    status: Mapped[str] = mapped_column(String(32))
    created_at: Mapped[float]
    started_at: Mapped[float | None]
    cancelled_at: Mapped[float | None]
    completed_at: Mapped[float | None]
    output_expires_s: Mapped[int | None]  # how long its results are kept
    expires_at: Mapped[float]  # it ends then, whatever is left
    num_requests: Mapped[int]
    num_succeeded: Mapped[int]
    num_failed: Mapped[int]
    output_file: Mapped[str | None] = mapped_column(ID)
    error_file: Mapped[str | None] = mapped_column(ID)
    errors: Mapped[list[dict[str, Any]]]
    lease_holder: Mapped[str | None] = mapped_column(ID)  # the server that works on it; None: free to take
    lease_count: Mapped[int] = mapped_column(Integer)  # how often its holder has shown itself


class BatchResult(Base):
    """The answer to one line of a batch; there until the result files are written."""

    __tablename__ = "batch_results"

    job_id: Mapped[str] = mapped_column(ForeignKey("batch_jobs.id", ondelete="CASCADE"), primary_key=True)
    line: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    custom_id: Mapped[str]
    status_code: Mapped[int] = mapped_column(Integer)
    body: Mapped[str]  # JSON text


class FineTuningJob(Base):
    """A fine-tuning job. Samples, run and adapter lie in a folder of its id in the state folder of the servers of
    `place`, which alone work on it."""

    __tablename__ = "fine_tuning_jobs"
    __table_args__ = (Index(None, "owner", "created_at"), Index(None, "place", "status"))

    id: Mapped[str] = mapped_column(ID, primary_key=True)
    owner: Mapped[str] = mapped_column(OWNER)
    key_id: Mapped[str] = mapped_column(ID)
    place: Mapped[str] = mapped_column(ID)
    dialect: Mapped[str] = mapped_column(String(16))  # whose API it came by
    job_type: Mapped[str] = mapped_column(String(16))
    method: Mapped[str] = mapped_column(String(16))  # what a sample holds: chat, preference, classify
    model: Mapped[str]  # the served name of the base
    base_path: Mapped[str]
    suffix: Mapped[str | None]
    status: Mapped[str] = mapped_column(String(32))
    auto_start: Mapped[bool] = mapped_column(Boolean)
    training_files: Mapped[list[dict[str, Any]]]  # file_id, weight
    validation_files: Mapped[list[str]]
    hyperparameters: Mapped[dict[str, Any]]
    classifier_targets: Mapped[list[dict[str, Any]]]
    max_invalid_share: Mapped[float]
    seed: Mapped[int] = mapped_column(BigInteger)
    details: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))  # the client's metadata
    created_at: Mapped[float]
    modified_at: Mapped[float]
    finished_at: Mapped[float | None]
    estimate: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))  # known once it is validated
    checkpoints: Mapped[list[dict[str, Any]]]
    losses: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))  # once it has ended
    trained_tokens: Mapped[int | None] = mapped_column(BigInteger)
    num_interruptions: Mapped[int] = mapped_column(Integer)  # since training last moved on
    fine_tuned_model: Mapped[str | None]
    error: Mapped[str | None]


class FineTuningEvent(Base):
    """What happened to a job, in order."""

    __tablename__ = "fine_tuning_events"
    __table_args__ = (Index(None, "job_id"),)

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("fine_tuning_jobs.id", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(String(64))
    data: Mapped[dict[str, Any]]
    created_at: Mapped[float]


class FineTunedModel(Base):
    """A model that a job has made. Its adapter stays in the job's folder as long as the row is there."""

    __tablename__ = "fine_tuned_models"
    __table_args__ = (Index(None, "place"),)

    name: Mapped[str] = mapped_column(String(255), primary_key=True)
    owner: Mapped[str] = mapped_column(OWNER)
    place: Mapped[str] = mapped_column(ID)
    job_id: Mapped[str] = mapped_column(ID)
    root: Mapped[str]  # the served name of the base
    model_type: Mapped[str] = mapped_column(String(16))
    title: Mapped[str | None]  # what its owner calls it
    description: Mapped[str | None]
    created_at: Mapped[float]
    archived: Mapped[bool] = mapped_column(Boolean)


class StoredResponse(Base):
    """A response that its owner may fetch and go on from, until it expires."""

    __tablename__ = "responses"
    __table_args__ = (Index(None, "expires_at"), Index(None, "owner", "size_bytes"))

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    owner: Mapped[str] = mapped_column(OWNER)
    size_bytes: Mapped[int] = mapped_column(BigInteger, server_default="0")  # as JSON
    created_at: Mapped[float]
    expires_at: Mapped[float]
    input: Mapped[list[dict[str, Any]]]  # items of the whole conversation before it
    body: Mapped[dict[str, Any]]  # the response object, output included


class IdempotencyRecord(Base):
    """What a request with an Idempotency-Key has come to; the id is a hash of owner, route and key."""

    __tablename__ = "idempotency_records"
    __table_args__ = (Index(None, "created_at"),)

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    digest: Mapped[bytes] = mapped_column(LargeBinary(32))  # of the request
    attempt: Mapped[str] = mapped_column(ID)  # which handling of it goes on; empty: none
    num_renewals: Mapped[int] = mapped_column(Integer)
    object_id: Mapped[str | None]  # of what it has made
    status: Mapped[int | None] = mapped_column(Integer)  # of its answer, once that is kept
    media_type: Mapped[str | None]
    body: Mapped[str | None]
    created_at: Mapped[float]


class Usage(Base):
    """One request that is over, without a word of what was said."""

    __tablename__ = "usage"
    __table_args__ = (Index(None, "ended_at"), Index(None, "owner", "ended_at"))

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    request_id: Mapped[str] = mapped_column(String(64))
    owner: Mapped[str] = mapped_column(OWNER)
    key_id: Mapped[str] = mapped_column(ID)
    endpoint: Mapped[str] = mapped_column(String(64))
    model: Mapped[str]
    status: Mapped[int] = mapped_column(Integer)
    prompt_tokens: Mapped[int] = mapped_column(BigInteger)
    cached_tokens: Mapped[int] = mapped_column(BigInteger)
    completion_tokens: Mapped[int] = mapped_column(BigInteger)
    first_token_s: Mapped[float | None]
    duration_s: Mapped[float]
    ended_at: Mapped[float]


class Secret(Base):
    """Random values this installation made for itself."""

    __tablename__ = "secrets"

    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    value: Mapped[bytes] = mapped_column(LargeBinary(32))


class Store(Base):
    """The one row that says which store this is: its folders carry the same id (store/tie.py)."""

    __tablename__ = "store"

    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)  # always 1
    store_id: Mapped[str] = mapped_column(ID)
    used_at: Mapped[float]

"""Jobs as OpenAI's API shows them."""

from __future__ import annotations

from collections.abc import Sequence

from tramontane.server.fine_tuning.jobs import (
    CANCELLATION_REQUESTED,
    CANCELLED,
    FAILED,
    FAILED_VALIDATION,
    INTERRUPTED,
    INVALID_LINE,
    QUEUED,
    RUNNING,
    STARTED,
    SUCCESS,
    VALIDATED,
    VALIDATING,
)
from tramontane.server.schema.fine_tuning import JobError, OpenaiCheckpoint, OpenaiEvent, OpenaiJobObject
from tramontane.server.store.tables import FineTuningEvent, FineTuningJob

STATUS = {
    QUEUED: "validating_files",
    VALIDATING: "validating_files",
    VALIDATED: "queued",
    STARTED: "queued",
    RUNNING: "running",
    CANCELLATION_REQUESTED: "running",
    SUCCESS: "succeeded",
    FAILED: "failed",
    FAILED_VALIDATION: "failed",
    CANCELLED: "cancelled",
}
LEVELS = {INTERRUPTED: "warn", INVALID_LINE: "warn"}


def openai_job(job: FineTuningJob) -> OpenaiJobObject:
    estimate = job.estimate or {}
    epochs = job.hyperparameters.get("epochs")
    hyperparameters = {"n_epochs": epochs or "auto", "batch_size": "auto", "learning_rate_multiplier": "auto"}
    kind = "dpo" if job.method == "preference" else "supervised"
    error = None
    if job.error is not None:
        is_file = job.status == FAILED_VALIDATION
        error = JobError(
            code="invalid_training_file" if is_file else "training_failed",
            message=job.error,
            param="training_file" if is_file else None,
        )
    finish = None
    if job.finished_at is None and estimate:
        finish = int(job.modified_at + estimate["expected_seconds"])
    return OpenaiJobObject(
        id=job.id,
        created_at=int(job.created_at),
        error=error,
        fine_tuned_model=job.fine_tuned_model,
        finished_at=None if job.finished_at is None else int(job.finished_at),
        hyperparameters=hyperparameters,
        model=job.model,
        organization_id=job.owner,
        seed=job.seed,
        status=STATUS[job.status],
        trained_tokens=job.trained_tokens,
        training_file=job.training_files[0]["file_id"],
        validation_file=job.validation_files[0] if job.validation_files else None,
        estimated_finish=finish,
        metadata=job.details,
        method={"type": kind, kind: {"hyperparameters": hyperparameters}},
    )


def openai_events(job: FineTuningJob, events: Sequence[FineTuningEvent]) -> list[OpenaiEvent]:
    """The newest first; what was measured among them."""
    found = [
        OpenaiEvent(
            id=f"ftevent-{event.id}",
            created_at=int(event.created_at),
            level="error" if event.data.get("error") else LEVELS.get(event.name, "info"),  # type: ignore[arg-type]
            message=_message(event),
            type="message",
            data=event.data,
        )
        for event in events
    ]
    for checkpoint in job.checkpoints:
        measured = {name: value for name, value in checkpoint.items() if name != "created_at" and value is not None}
        losses = ", ".join(f"{name}={value:.4f}" for name, value in measured.items() if name != "step_number")
        found.append(
            OpenaiEvent(
                id=f"ftevent-{job.id}-{checkpoint['step_number']}",
                created_at=int(checkpoint["created_at"]),
                level="info",
                message=f"Step {checkpoint['step_number']}: {losses}",
                type="metrics",
                data={"step": checkpoint["step_number"], **measured},
            )
        )
    return sorted(found, key=lambda event: event.created_at, reverse=True)


def openai_checkpoints(job: FineTuningJob) -> list[OpenaiCheckpoint]:
    """The newest first."""
    last = job.checkpoints[-1]["step_number"] if job.checkpoints else None
    found = []
    for checkpoint in reversed(job.checkpoints):
        step = checkpoint["step_number"]
        metrics = {"step": float(step)} | {
            name: checkpoint[name]
            for name in ("train_loss", "valid_loss", "valid_mean_token_accuracy")
            if checkpoint[name] is not None
        }
        found.append(
            OpenaiCheckpoint(
                id=f"ftckpt-{job.id}-{step}",
                created_at=int(checkpoint["created_at"]),
                fine_tuned_model_checkpoint=(job.fine_tuned_model or "") if step == last else "",
                fine_tuning_job_id=job.id,
                metrics=metrics,
                step_number=step,
            )
        )
    return found


def _message(event: FineTuningEvent) -> str:
    data = event.data
    if event.name == INVALID_LINE:
        return f"file {data.get('file_id')}, line {data['line']}: {data['message']}"
    if "status" in data:
        error = f": {data['error']}" if data.get("error") else ""
        return f"The job is {STATUS[data['status']]}{error}"
    return str(data.get("message", event.name))

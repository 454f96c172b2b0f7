"""Jobs as Mistral's API shows them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from tramontane.server.fine_tuning.jobs import ENDED
from tramontane.server.schema.fine_tuning import (
    CheckpointMetrics,
    CheckpointObject,
    DetailedJobObject,
    DryRun,
    EventObject,
    JobMetadata,
    JobObject,
    TargetObject,
)
from tramontane.server.store.tables import FineTuningEvent, FineTuningJob


def job_fields(job: FineTuningJob, price_per_hour: float | None) -> dict[str, Any]:
    return {
        "id": job.id,
        "job_type": job.job_type,
        "auto_start": job.auto_start,
        "model": job.model,
        "status": job.status,
        "created_at": int(job.created_at),
        "modified_at": int(job.modified_at),
        "training_files": [file["file_id"] for file in job.training_files],
        "validation_files": job.validation_files,
        "fine_tuned_model": job.fine_tuned_model,
        "suffix": job.suffix,
        "trained_tokens": job.trained_tokens,
        "metadata": job_metadata(job, price_per_hour),
        "hyperparameters": {name: value for name, value in job.hyperparameters.items() if name != "beta"},
    }


def job_object(job: FineTuningJob, price_per_hour: float | None) -> JobObject:
    return JobObject(**job_fields(job, price_per_hour))


def detailed_job(
    job: FineTuningJob, events: Sequence[FineTuningEvent], price_per_hour: float | None
) -> DetailedJobObject:
    targets = None
    if job.job_type == "classifier":
        targets = [
            TargetObject(**{**target, "loss_function": target["loss_function"] or "single_class"})
            for target in job.classifier_targets
        ]
    return DetailedJobObject(
        **job_fields(job, price_per_hour),
        events=[EventObject(name=e.name, data=e.data, created_at=int(e.created_at)) for e in events],
        checkpoints=[checkpoint_object(each) for each in job.checkpoints],
        classifier_targets=targets,
    )


def checkpoint_object(checkpoint: dict[str, Any]) -> CheckpointObject:
    losses = {name: checkpoint[name] for name in CheckpointMetrics.model_fields}
    return CheckpointObject(
        metrics=CheckpointMetrics(**losses),
        step_number=checkpoint["step_number"],
        created_at=int(checkpoint["created_at"]),
    )


def job_metadata(job: FineTuningJob, price_per_hour: float | None) -> JobMetadata | None:
    return None if job.estimate is None else JobMetadata(**_estimated(job.estimate, job, price_per_hour))


def dry_run(job: FineTuningJob, price_per_hour: float | None) -> DryRun:
    """Of a job that was validated."""
    estimate = job.estimate or {}
    return DryRun(
        **_estimated(estimate, job, price_per_hour),
        epochs=estimate["epochs"],
        training_steps=estimate["num_steps"],
        details=estimate["summary"],
    )


def _estimated(estimate: dict[str, Any], job: FineTuningJob, price_per_hour: float | None) -> dict[str, Any]:
    seconds = estimate["expected_seconds"]
    return {
        "expected_duration_seconds": max(1, round(seconds)),
        "cost": None if price_per_hour is None else round(seconds / 3600 * price_per_hour, 6),
        "train_tokens_per_step": estimate["train_tokens_per_step"],
        "train_tokens": estimate["train_tokens"],
        "data_tokens": estimate["data_tokens"],
        "estimated_start_time": None if job.status in ENDED else int(time.time()),
    }

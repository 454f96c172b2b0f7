"""Making a job: its samples gathered in a folder of its own, then its row."""

from __future__ import annotations

import itertools
import shutil
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tramontane import durable
from tramontane.data.sample_files import each_row
from tramontane.data.sample_shapes import shape_of
from tramontane.errors import DataError
from tramontane.loading.named_model import NamedModel, copy_adapter
from tramontane.server.auth import Caller
from tramontane.server.errors import ApiError
from tramontane.server.files.files import Files
from tramontane.server.fine_tuning.command import JobFolder
from tramontane.server.fine_tuning.jobs import QUEUED, FineTuningJobs
from tramontane.server.fine_tuning.room import require_disk
from tramontane.server.fine_tuning.samples import join_files
from tramontane.server.idempotency.records import Mark, unmarked
from tramontane.server.models import ModelRegistry, ServedModel
from tramontane.server.store.contents import FULL
from tramontane.server.store.errors import DiskFullError, may_be_stored
from tramontane.server.store.tables import FineTuningJob

JobType = Literal["completion", "classifier"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """What is asked for. `model` is the base's name, `start` what training begins with. `job_type` None: told by the
    first sample. `weights` by training file."""

    dialect: str
    model: str
    start: NamedModel
    hyperparameters: dict[str, Any]
    weights: Mapping[str, float]
    validation_files: Sequence[str] = ()
    job_type: JobType | None = None
    is_preference: bool = False
    suffix: str | None = None
    auto_start: bool = True
    max_invalid_share: float = 0.0
    classifier_targets: list[dict[str, Any]] = field(default_factory=list)
    seed: int = 0
    details: dict[str, Any] | None = None
    files_param: str = "training_files"
    validation_param: str = "validation_files"


def tunable(registry: ModelRegistry, name: str, owner: str) -> ServedModel:
    """The model that a job is to start from. Raises ApiError 400 for one that is not served or cannot be trained."""
    model = registry.resolve(name, owner)
    if not model.capabilities.fine_tuning:
        able = ", ".join(other.name for other in registry.seen_by(owner) if other.capabilities.fine_tuning)
        raise ApiError(
            400,
            f"model {model.name} cannot be fine-tuned: it takes a base in a folder of float weights that can chat; "
            + (f"served are {able}" if able else "none is served"),
            param="model",
            code="not_tunable",
        )
    return model


def create_job(jobs: FineTuningJobs, files: Files, caller: Caller, new: NewJob, mark: Mark = unmarked) -> FineTuningJob:
    """Durable when this returns. Raises ApiError 404 for a file that is not there and 422 for one of another purpose,
    and DiskFullError, before anything is written where the job would leave others no room. Waits for the disk."""
    sizes = [files.get(file_id, caller).size_bytes for file_id in dict.fromkeys((*new.weights, *new.validation_files))]
    require_disk(jobs.folder, sizes)
    job_id = str(uuid.uuid4())
    folder = JobFolder(jobs.folder_of(job_id))
    durable.make_folder(folder.path, 0o700)
    try:
        join_files(files, caller, new.weights, folder.samples, new.files_param)
        if new.validation_files:
            once = dict.fromkeys(new.validation_files, 1.0)
            join_files(files, caller, once, folder.held_out, new.validation_param)
        job_type = new.job_type or ("classifier" if _has_labels(folder.samples) else "completion")
        if new.start.adapter is not None:  # which its owner may change or delete before the job has ended
            copy_adapter(new.start, folder.start)
        now = time.time()
        job = FineTuningJob(
            id=job_id,
            owner=caller.owner,
            key_id=caller.key_id,
            place=jobs.place,
            dialect=new.dialect,
            job_type=job_type,
            method="preference" if new.is_preference else "classify" if job_type == "classifier" else "chat",
            model=new.model,
            base_path=str((new.start.path if new.start.adapter is None else folder.start).resolve()),
            suffix=new.suffix,
            status=QUEUED,
            auto_start=new.auto_start,
            training_files=[{"file_id": file_id, "weight": weight} for file_id, weight in new.weights.items()],
            validation_files=list(new.validation_files),
            hyperparameters=new.hyperparameters,
            classifier_targets=new.classifier_targets,
            max_invalid_share=new.max_invalid_share,
            seed=new.seed,
            details=new.details,
            created_at=now,
            modified_at=now,
            checkpoints=[],
            num_interruptions=0,
        )
        if job_type == "completion" and new.classifier_targets:
            raise ApiError(422, "classifier_targets are for jobs of type classifier", param="classifier_targets")
        return jobs.add(job, mark)
    except BaseException as error:
        if not may_be_stored(error):
            shutil.rmtree(folder.path, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in FULL:
            raise DiskFullError("the server's disk is full; the job was not made") from None
        raise


def _has_labels(samples: Path) -> bool:
    """Whether the first samples are a classifier's; what is wrong with them is told elsewhere."""
    for _, row in itertools.islice(each_row(samples), 20):
        if not isinstance(row, DataError):
            with suppress(DataError):
                return shape_of(row).kind == "classifier"
    return False

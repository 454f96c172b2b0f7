"""Rows of the server's tables as tests need them, with their contents where they have any."""

from __future__ import annotations

import time
import uuid
from typing import Any

from tramontane.server.files.files import WORKSPACE
from tramontane.server.fine_tuning.jobs import QUEUED
from tramontane.server.state import State
from tramontane.server.store.tables import File, FineTunedModel, FineTuningJob


def add_file(state: State) -> str:
    row = File(
        owner="local",
        key_id="local",
        filename="f",
        purpose="user_data",
        sample_type="instruct",
        source="upload",
        num_lines=None,
        mimetype=None,
        visibility=WORKSPACE,
        created_at=time.time(),
        expires_at=None,
    )
    with state.files.contents.incoming() as incoming:
        incoming.write(b"tramontane")
        return state.files.add(incoming, row).id


def add_job(state: State) -> str:
    job = fine_tuning_job(place=state.fine_tuning_jobs.place)
    state.fine_tuning_jobs.folder_of(job.id).mkdir()
    return state.fine_tuning_jobs.add(job).id


def fine_tuning_job(**values: Any) -> FineTuningJob:
    given = {"id": str(uuid.uuid4()), "owner": "local", "place": "", "status": QUEUED} | values
    return FineTuningJob(
        key_id="local",
        dialect="mistral",
        job_type="completion",
        method="chat",
        model="default",
        base_path="/",
        auto_start=False,
        training_files=[],
        validation_files=[],
        hyperparameters={"training_steps": 1, "learning_rate": 1e-4},
        classifier_targets=[],
        max_invalid_share=0.0,
        seed=0,
        created_at=time.time(),
        modified_at=time.time(),
        checkpoints=[],
        num_interruptions=0,
        **given,
    )


def fine_tuned_model(name: str, **values: Any) -> FineTunedModel:
    given = {"owner": "local", "place": "", "job_id": str(uuid.uuid4())} | values
    return FineTunedModel(
        name=name, root="default", model_type="completion", created_at=time.time(), archived=False, **given
    )

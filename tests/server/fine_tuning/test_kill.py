"""kill -9 in the midst of a job: of the server, then of both; the job goes on, and its model is there."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import httpx

from tests.server.fine_tuning.making import PATH, greetings, job_until, upload
from tests.server.live import start_server
from tests.server.test_kill import kill

NUM_STEPS = 60
PATIENCE_S = 300.0


def step_of(client: httpx.Client, job_id: str) -> int:
    losses = client.get(f"/api/fine_tuning/jobs/{job_id}/losses").json()["train"]
    return int(losses[-1][0]) if losses else 0


def wait_for_step(client: httpx.Client, job_id: str, step: int) -> int:
    started = time.monotonic()
    while (found := step_of(client, job_id)) < step:
        assert time.monotonic() - started < PATIENCE_S, client.get(f"{PATH}/{job_id}").json()
        time.sleep(0.02)
    return found


def test_a_job_outlives_its_server_and_resumes_when_both_are_killed(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    arguments = [checkpoints["chat"], "--fine-tuning-nice", 0]
    live = start_server(tmp_path, arguments)
    with live.client() as client:
        file_id = upload(client, greetings())
        hyperparameters = {"training_steps": NUM_STEPS, "learning_rate": 0.01}
        body = {"model": "chat", "training_files": [file_id], "hyperparameters": hyperparameters}
        job_id = client.post(PATH, json=body).json()["id"]
        wait_for_step(client, job_id, 1)
        folder = tmp_path / "server" / "fine_tuning" / job_id
        pid = int((folder / "train" / "pid").read_text("utf-8"))
        os.killpg(pid, signal.SIGSTOP)  # or it would be over before the next server is there
        kill(live)
    live = start_server(tmp_path, arguments)
    with live.client() as client:
        os.killpg(pid, signal.SIGCONT)
        seen = wait_for_step(client, job_id, 2)
        assert int((folder / "train" / "pid").read_text("utf-8")) == pid, "the same process goes on"
        assert seen < NUM_STEPS, "the job must be in its middle"
        kill(live)
        os.killpg(pid, signal.SIGKILL)
    live = start_server(tmp_path, arguments)
    with live.client() as client:
        job = job_until(client, job_id)
        assert job["status"] == "SUCCESS", job
        assert [event["name"] for event in job["events"]].count("interrupted") == 1
        asked = {"model": job["fine_tuned_model"], "prompt": "Question", "max_tokens": 4}
        answer = client.post("/v1/completions", json=asked)
        assert answer.status_code == 200, answer.text
    assert live.stop() == 0

"""kill -9 in the midst of a job, of the trainer again and again and of the server: the job goes on, its model is there,
and nothing of it outlives its server."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import httpx

from tests.server.fine_tuning.making import PATH, greetings, job_until, upload
from tests.server.live import start_server
from tests.server.test_kill import kill
from tramontane.server.fine_tuning.process import Process

NUM_STEPS = 60
NUM_KILLS = 5
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


def is_alive(folder: Path) -> bool:
    return Process(folder / "train").is_alive


def test_a_job_goes_on_however_often_others_kill_it(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """Three kills of the trainer without progress used to make the job FAILED at the fourth."""
    arguments = [checkpoints["chat"], "--fine-tuning-nice", 0]
    live = start_server(tmp_path, arguments)
    with live.client() as client:
        file_id = upload(client, greetings())
        hyperparameters = {"training_steps": NUM_STEPS, "learning_rate": 0.01}
        body = {"model": "chat", "training_files": [file_id], "hyperparameters": hyperparameters}
        job_id = client.post(PATH, json=body).json()["id"]
        folder = tmp_path / "server" / "fine_tuning" / job_id
        started, killed = time.monotonic(), set[str]()
        while len(killed) < NUM_KILLS:
            assert time.monotonic() - started < PATIENCE_S, client.get(f"{PATH}/{job_id}").json()
            with suppress(FileNotFoundError, ValueError, ProcessLookupError):
                pid = (folder / "train" / "pid").read_text("utf-8")
                if pid not in killed and is_alive(folder):
                    os.killpg(int(pid), signal.SIGKILL)
                    killed.add(pid)
            time.sleep(0.02)
        wait_for_step(client, job_id, 1)
        kill(live)
    started = time.monotonic()
    while is_alive(folder):
        assert time.monotonic() - started < PATIENCE_S, "it outlives its server"
        time.sleep(0.05)
    live = start_server(tmp_path, arguments)
    with live.client() as client:
        job = job_until(client, job_id)
        assert job["status"] == "SUCCESS", job
        assert [event["name"] for event in job["events"]].count("interrupted") == NUM_KILLS + 1
        asked = {"model": job["fine_tuned_model"], "prompt": "Question", "max_tokens": 4}
        answer = client.post("/v1/completions", json=asked)
        assert answer.status_code == 200, answer.text
        losses = client.get(f"/api/fine_tuning/jobs/{job_id}/losses").json()["train"]
        assert losses[-1][0] == NUM_STEPS
        started = time.monotonic()
        while [path.relative_to(folder).as_posix() for path in folder.glob("*/*")] != ["run/model"]:
            assert time.monotonic() - started < PATIENCE_S, "what has ended leaves its model alone"
            time.sleep(0.05)
    assert live.stop() == 0

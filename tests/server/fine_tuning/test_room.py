"""What a job may take: of the disk, of the memory, of the context; and what it leaves behind."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.server.fine_tuning.making import PATH, PATIENCE_S, conversation, greetings, job_until, upload
from tests.server.in_process import serving
from tramontane.server.fine_tuning import room, runner
from tramontane.server.fine_tuning.command import environment
from tramontane.server.fine_tuning.room import folder_bytes
from tramontane.server.keys import KeyOptions, create_key


@pytest.fixture(scope="module")
def client(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("state")
    with serving({"chat": checkpoints["chat"]}, folder, fine_tuning_nice=0, fine_tuning_memory_gib=4.0) as client:
        client.folder = folder / "fine_tuning"  # type: ignore[attr-defined]
        yield client


def folders(client: TestClient) -> list[Path]:
    return [path for path in client.folder.iterdir() if path.is_dir()]  # type: ignore[attr-defined]


def are_gone(client: TestClient) -> bool:
    """All folders of jobs, soon after those have ended."""
    started = time.monotonic()
    while folders(client) and time.monotonic() - started < PATIENCE_S:
        time.sleep(0.05)
    return not folders(client)


def asked(file_id: str, **fields: Any) -> dict[str, Any]:
    return {"model": "chat", "hyperparameters": {"training_steps": 4}, "training_files": [file_id], **fields}


def test_weights_take_no_disk_and_what_ends_leaves_nothing(client: TestClient) -> None:
    """Twelve times weight 100 used to write 1,200 copies of the file, and to keep them for ever."""
    long = "The sea is wide, and the wind comes from the north. " * 16
    lines = [conversation(f"{n}?", f"{n}. {long}") for n in range(60)]
    size = len("".join(json.dumps(line) for line in lines))
    entry = {"file_id": upload(client, lines), "weight": 100}
    job = client.post(PATH, json=asked("", training_files=[entry] * 12, auto_start=False)).json()
    job = job_until(client, job["id"], ["VALIDATED"])
    assert job["status"] == "VALIDATED", job
    (folder,) = folders(client)
    assert folder_bytes(folder) < 4 * size + 500_000
    assert job["metadata"]["data_tokens"] > 1200 * 60 * 100  # and yet each is seen as often as that
    path = f"{PATH}/{job['id']}"
    assert client.delete(path).status_code == 409
    assert client.post(f"{path}/cancel").json()["status"] == "CANCELLED"
    assert folders(client) == []
    assert client.delete(path).json() == {"id": job["id"], "object": "job", "deleted": True}
    assert client.get(path).status_code == client.delete(path).status_code == 404


def test_a_dry_run_copies_nothing_either(client: TestClient) -> None:
    entry = {"file_id": upload(client, greetings()), "weight": 100}
    body = asked("", training_files=[entry] * 12)
    answer = client.post(PATH, json=body, params={"dry_run": True})
    assert answer.status_code == 200, answer.text
    assert are_gone(client)


def test_more_epochs_of_weights_than_can_be_planned_are_refused(client: TestClient) -> None:
    entry = {"file_id": upload(client, greetings()), "weight": 100}
    body = asked("", training_files=[entry] * 100, hyperparameters={"epochs": 1000})
    answer = client.post(PATH, json=body, params={"dry_run": True})
    assert answer.status_code == 422
    assert "training_steps" in answer.json()["message"]
    assert are_gone(client)


@pytest.mark.parametrize("params", [{}, {"dry_run": True}])
def test_seq_len_beyond_the_context_is_refused_before_there_is_a_job(
    client: TestClient, params: dict[str, Any]
) -> None:
    file_id = upload(client, [conversation("a", "word " * 5000)])
    body = asked(file_id, hyperparameters={"training_steps": 1, "seq_len": 2**20})
    answer = client.post(PATH, json=body, params=params)
    assert answer.status_code == 422
    assert answer.json()["param"] == "hyperparameters.seq_len"
    assert "more than the 2048 tokens of the model's context" in answer.json()["message"]
    assert folders(client) == []


def test_a_job_that_needs_too_much_memory_is_refused_by_its_estimate(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = client.app.state.services.fine_tuning_runner  # type: ignore[attr-defined]
    assert trainer._memory_bytes == 4 * 2**30
    monkeypatch.setattr(trainer, "_memory_bytes", 500 * 2**20)
    monkeypatch.setattr(runner, "environment", lambda settings: {**environment(settings), "OMP_NUM_THREADS": "1"})
    job = client.post(PATH, json=asked(upload(client, greetings()))).json()
    job = job_until(client, job["id"])
    assert job["status"] == "FAILED_VALIDATION"
    error = job["events"][-1]["data"]["error"]
    assert "GiB of memory" in error
    assert "fine_tuning_memory_gib" in error
    assert are_gone(client)


def test_a_disk_without_room_for_it_refuses_a_job(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    file_id = upload(client, greetings())
    monkeypatch.setattr(room, "_spare_bytes", lambda folder: 10_000_000)
    answer = client.post(PATH, json=asked(file_id))
    assert answer.status_code == 507
    assert "where 10 MB are left to jobs" in answer.json()["message"]
    assert folders(client) == []


def test_a_job_that_fills_the_disk_is_ended(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    job = client.post(PATH, json=asked(upload(client, greetings()), hyperparameters={"training_steps": 500})).json()
    job_until(client, job["id"], ["RUNNING"])
    monkeypatch.setattr(runner, "is_disk_low", lambda folder: True)
    job = job_until(client, job["id"])
    assert job["status"] == "FAILED", job
    assert "no room left" in job["events"][-1]["data"]["error"]
    assert are_gone(client)


def test_one_owners_jobs_do_not_hold_all_trainers(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    monkeypatch.setattr("tramontane.server.fine_tuning.turns.SLICE_S", 3.0)
    monkeypatch.setattr("tramontane.server.fine_tuning.turns.SHORT_SLICE_S", 3.0)
    with serving({"chat": checkpoints["chat"]}, tmp_path, fine_tuning_nice=0) as client:
        database = client.app.state.services.database  # type: ignore[attr-defined]
        ann, ben = (
            {"authorization": f"Bearer {create_key(database, KeyOptions(name=name))[1]}"} for name in ("ann", "ben")
        )
        client.headers.update(ann)
        endless = asked(upload(client, greetings()), hyperparameters={"training_steps": 100_000})
        jobs = [client.post(PATH, json=endless).json()["id"] for _ in range(3)]
        job_until(client, jobs[0], ["RUNNING"])
        client.headers.update(ben)
        job = client.post(PATH, json=asked(upload(client, greetings()))).json()
        assert job_until(client, job["id"])["status"] == "SUCCESS"
        client.headers.update(ann)
        first = client.get(f"{PATH}/{jobs[0]}").json()
        assert [event["data"]["status"] for event in first["events"] if event["name"] == "status-updated"][3:5] == [
            "RUNNING",
            "STARTED",
        ]
        for job_id in jobs:
            client.post(f"{PATH}/{job_id}/cancel")
            assert job_until(client, job_id)["status"] == "CANCELLED"


def test_a_job_sees_nothing_of_the_servers_secrets(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TRAMONTANE_DATABASE_URL", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "SOME_PASSWORD"):
        monkeypatch.setenv(name, "hunter2")
    seen = environment(client.app.state.services.settings)  # type: ignore[attr-defined]
    assert "PATH" in seen
    assert "hunter2" not in seen.values()

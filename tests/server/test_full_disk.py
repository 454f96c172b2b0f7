"""A disk that is full to the last byte: whoever wants to delete, cancel or revoke still can."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.server.in_process import HELLO, serving
from tests.server.rows import fine_tuned_model, fine_tuning_job
from tramontane.server.fine_tuning.jobs import VALIDATED
from tramontane.server.keys import KeyOptions, create_key
from tramontane.server.store.reserve import SIZE_BYTES

DISK = "size=24m"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", DISK, "none", folder], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(path: Path) -> None:
    """Another program takes all that is left."""
    with suppress(OSError), path.open("ab", buffering=0) as file:
        for size in (2**20, 4096, 1):
            with suppress(OSError):
                while file.write(b"x" * size):
                    pass
    assert os.statvfs(path).f_bavail == 0


def upload(client: TestClient, num_bytes: int) -> Any:
    form: dict[str, Any] = {"files": {"file": ("a.txt", os.urandom(num_bytes))}, "data": {"purpose": "user_data"}}
    return client.post("/v1/files", **form)


def upload_until_full(client: TestClient) -> list[str]:
    """Ids of what was taken."""
    ids = []
    for size in (2**20, 2**16, 2**12, 1):
        while (answer := upload(client, size)).status_code == 200:
            ids.append(answer.json()["id"])
        assert answer.status_code == 507, answer.text
    return ids


def cli(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tramontane.cli", *arguments, "--state-dir", str(home)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_deleting_cancelling_and_revoking_work_on_a_full_disk(disk: Path, checkpoints: dict[str, Path]) -> None:
    home = disk / "state"
    with serving({"chat": checkpoints["chat"]}, home) as client:
        services = client.app.state.services  # type: ignore[attr-defined]
        database = services.database
        other, other_token = create_key(database, KeyOptions("other"))
        _, token = create_key(database, KeyOptions("wind", owner="alice"))
        client.headers["authorization"] = f"Bearer {token}"
        lines = [{"custom_id": str(n), "body": {"messages": HELLO, "max_tokens": 500}} for n in range(200)]
        body = {"model": "chat", "endpoint": "/v1/chat/completions", "requests": lines}
        batch = client.post("/v1/batch/jobs", json=body).json()["id"]
        answered = client.post("/v1/responses", json={"model": "chat", "input": "wind", "max_output_tokens": 16}).json()
        job, model = str(uuid.uuid4()), "ft:chat:x"
        with database.write() as session:
            place = services.fine_tuning_jobs.place
            session.add(fine_tuning_job(id=job, owner="alice", place=place, status=VALIDATED))
            session.add(fine_tuned_model(model, owner="alice", place=place))

        (disk / "other").write_bytes(bytes(4 * 2**20))
        ids = upload_until_full(client)
        fill(disk / "other")
        chat = client.post("/v1/chat/completions", json={"model": "chat", "messages": HELLO, "max_tokens": 2})
        assert chat.status_code == 200
        assert upload(client, 1).status_code == 507

        revoked = cli(home, "keys", "revoke", other.id)
        assert revoked.returncode == 0, revoked.stderr
        fill(disk / "other")  # what the reserve has left
        time.sleep(1.1)
        bearer = {"authorization": f"Bearer {other_token}"}
        assert client.get("/v1/files", headers=bearer).status_code == 401

        (disk / "other").unlink()
        assert database.has_room
        fill(disk / "other")
        for path in (f"/v1/batch/jobs/{batch}/cancel", f"/v1/fine_tuning/jobs/{job}/cancel"):
            assert client.post(path).status_code == 200
            fill(disk / "other")
            (disk / "other").unlink()
            assert database.has_room
            fill(disk / "other")
        services.fine_tuned_models.delete(model, "alice")
        for path in (f"/v1/responses/{answered['id']}", f"/v1/batch/jobs/{batch}"):
            assert client.delete(path).status_code == 200, path
            (disk / "other").unlink()
            assert database.has_room
            fill(disk / "other")
        for file_id in ids:
            assert client.delete(f"/v1/files/{file_id}").status_code == 200
        assert client.get("/v1/files").json()["data"] == []
        assert upload(client, 100).status_code == 200
        assert database.reserve.is_whole


def test_one_reserve_serves_many_deletions(disk: Path, checkpoints: dict[str, Path]) -> None:
    """Room that comes free is for the reserve first, and then for everybody."""
    home = disk / "state"
    with serving({"chat": checkpoints["chat"]}, home) as client:
        reserve = client.app.state.services.database.reserve  # type: ignore[attr-defined]
        assert reserve.path.stat().st_size == SIZE_BYTES
        small = [upload(client, 10).json()["id"] for _ in range(40)]
        large = upload_until_full(client)
        fill(disk / "other")
        for file_id in small:
            assert client.delete(f"/v1/files/{file_id}").status_code == 200
        assert upload(client, 1).status_code == 507
        for file_id in large:
            assert client.delete(f"/v1/files/{file_id}").status_code == 200
        assert upload(client, 1).status_code == 200
        assert reserve.is_whole


def test_a_server_that_is_not_running_has_its_reserve_too(disk: Path, checkpoints: dict[str, Path]) -> None:
    home = disk / "state"
    with serving({"chat": checkpoints["chat"]}, home) as client:
        key, token = create_key(client.app.state.services.database, KeyOptions("wind"))  # type: ignore[attr-defined]
    fill(disk / "other")
    revoked = cli(home, "keys", "revoke", key.id)
    assert revoked.returncode == 0, revoked.stderr
    with serving({"chat": checkpoints["chat"]}, home) as client:  # which starts with what the reserve has left
        assert upload(client, 1).status_code in (401, 507)
        headers = {"authorization": f"Bearer {token}"}
        assert client.get("/v1/models", headers=headers).status_code == 401

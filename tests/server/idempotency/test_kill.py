"""kill -9 of a real server within creates; after the restart, their retries find or make one object each."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.server.fine_tuning.making import greetings
from tests.server.in_process import HELLO, MISTRAL
from tests.server.live import start_server

CHAT = "/v1/chat/completions"
CLAIMED, MARKED, MADE, KEPT = 1, 3, 4, 5
"""Points: behind the claim, before the commit of the object, behind it, and behind that of the answer."""
Create = Callable[[httpx.Client, str], httpx.Response]


def upload(http: httpx.Client, key: str) -> httpx.Response:
    files = {"file": ("a.txt", key.encode())}
    return http.post("/v1/files", files=files, data={"purpose": "user_data"}, headers={"idempotency-key": key})


def batch(http: httpx.Client, key: str) -> httpx.Response:
    body = {"endpoint": CHAT, "model": "chat", "requests": [{"custom_id": key, "body": {"messages": HELLO}}]}
    return http.post("/v1/batch/jobs", json=body, headers={"idempotency-key": key})


def job(samples: str) -> Create:
    def create(http: httpx.Client, key: str) -> httpx.Response:
        steps = {"training_steps": 1, "learning_rate": 0.01}
        body = {"model": "chat", "training_files": [samples], "hyperparameters": steps, "auto_start": False}
        return http.post("/v1/fine_tuning/jobs", json=body, headers={**MISTRAL, "idempotency-key": key})

    return create


def test_creates_that_are_killed_are_made_once(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = start_server(tmp_path, [checkpoints["chat"]])
    with live.client() as http:
        lines = "".join(f"{line}\n" for line in map(json.dumps, greetings()))
        samples = http.post("/v1/files", files={"file": ("a.jsonl", lines.encode())}).json()["id"]
    assert live.stop() == 0
    routes = {"/v1/files": upload, "/v1/batch/jobs": batch, "/v1/fine_tuning/jobs": job(samples)}
    killed: list[tuple[str, Create, str]] = []
    for path, create in routes.items():
        for dies_at in (CLAIMED, MADE, KEPT) if create is upload else (MARKED, MADE):
            monkeypatch.setenv("DIES_AT", str(dies_at))
            live = start_server(tmp_path, [checkpoints["chat"]], module="tests.server.idempotency.dying_server")
            key = str(uuid.uuid4())
            with live.client() as http, live.process, pytest.raises(httpx.HTTPError):
                create(http, key)
            assert live.process.returncode == -9
            killed.append((path, create, key))
    live = start_server(tmp_path, [checkpoints["chat"]])
    with live.client() as http:
        ids: dict[str, set[str]] = {path: set() for path in routes}
        for path, create, key in killed:
            first, again = create(http, key), create(http, key)
            assert first.status_code == 200, first.text
            assert again.json() == first.json()
            assert again.headers["idempotent-replayed"] == "true"
            ids[path].add(first.json()["id"])
        for path in routes:
            data = http.get(path, params={"purpose": "user_data"} if path == "/v1/files" else None).json()["data"]
            listed = {entry["id"] for entry in data}  # of files, without the samples and what batches have made
            assert listed == ids[path], path
            assert len(listed) == sum(other == path for other, _, _ in killed)
    assert live.stop() == 0

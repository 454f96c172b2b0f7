"""kill -9 in the middle of a batch and of uploads, twice: what was acknowledged is there after the restart, once."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from tests.server.in_process import HELLO
from tests.server.live import LiveServer, start_server

CHAT = "/v1/chat/completions"
NUM_REQUESTS = 60
PATIENCE_S = 120.0


def kill(live: LiveServer) -> None:
    with live.process:  # closes its pipe
        live.process.kill()
        assert live.process.wait(30) == -9


def wait_until(client: httpx.Client, path: str, num_completed: int) -> dict[str, Any]:
    """The batch, once so many of its requests are completed."""
    started = time.monotonic()
    while True:
        job: dict[str, Any] = client.get(path).json()
        if job["completed_requests"] >= num_completed or job["completed_at"] is not None:
            return job
        assert time.monotonic() - started < PATIENCE_S, job
        time.sleep(0.01)


def num_answered(client: httpx.Client) -> int:
    """Chat requests that this process has answered."""
    found = re.findall(rf'^tramontane_requests_total{{[^}}]*"{CHAT}"[^}}]*}} (\S+)', client.get("/metrics").text, re.M)
    return round(sum(map(float, found)))


def begin_upload(url: str) -> socket.socket:
    """An upload that stays without its end."""
    address = urlsplit(url)
    connection = socket.create_connection((address.hostname, address.port))
    head = f"POST /v1/files HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Length: 50000000\r\n"
    part = 'Content-Disposition: form-data; name="file"; filename="half.jsonl"'
    connection.sendall(f"{head}Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n{part}\r\n\r\n".encode())
    connection.sendall(b"x" * 4_000_000)
    return connection


@contextlib.contextmanager
def uploading(url: str, stored: dict[str, str]) -> Iterator[None]:
    """Two clients that upload until the server is gone, and one that never ends. Begins once 20 more files are in
    `stored`, by id with their text; the server must be killed within."""

    def upload(worker: int) -> None:
        with httpx.Client(base_url=url, timeout=60) as client:
            for n in range(100_000):
                text = f"{worker} {n} " * 500
                try:
                    answer = client.post(
                        "/v1/files", files={"file": (f"{n}.txt", text.encode())}, data={"purpose": "user_data"}
                    )
                except httpx.TransportError:
                    return
                assert answer.status_code == 200
                stored[answer.json()["id"]] = text

    half, wanted = begin_upload(url), len(stored) + 20
    threads = [threading.Thread(target=upload, args=(worker,)) for worker in range(2)]
    for thread in threads:
        thread.start()
    started = time.monotonic()
    while len(stored) < wanted:
        assert time.monotonic() - started < PATIENCE_S
        time.sleep(0.001)
    yield
    half.close()
    for thread in threads:
        thread.join()


def test_what_was_acknowledged_is_there_after_a_kill(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    arguments = [checkpoints["chat"], "--batch-concurrency", 2]
    body = {"model": "chat", "messages": HELLO, "max_tokens": 40, "random_seed": 1}
    lines = [{"custom_id": f"id-{n}", "body": body if n % 10 else {**body, "top_p": 9}} for n in range(NUM_REQUESTS)]
    stored: dict[str, str] = {}
    live = start_server(tmp_path, arguments)
    with uploading(live.url, stored), live.client() as client:
        made = client.post("/v1/batch/jobs", json={"endpoint": CHAT, "requests": lines}).json()
        path = f"/v1/batch/jobs/{made['id']}"
        before = wait_until(client, path, NUM_REQUESTS // 3)
        kill(live)
    assert before["status"] == "RUNNING", "the batch must be in its middle"
    with contextlib.closing(sqlite3.connect(tmp_path / "server" / "state.db")) as database:
        ((num_stored,),) = database.execute("SELECT count(*) FROM batch_results")
    assert before["completed_requests"] <= num_stored < NUM_REQUESTS

    live = start_server(tmp_path, arguments)
    with live.client() as client:
        assert num_stored <= client.get(path).json()["completed_requests"]
        job = wait_until(client, path, NUM_REQUESTS + 1)
        assert (job["status"], job["succeeded_requests"], job["failed_requests"]) == ("SUCCESS", 54, 6)
        # what was answered before is not answered again
        assert num_answered(client) == NUM_REQUESTS - num_stored
    with uploading(live.url, stored):
        kill(live)
    assert list((tmp_path / "server" / "incoming").glob("*.part")), "no upload was in its middle"

    live = start_server(tmp_path, arguments)
    with live.client() as client:
        check_batch(client, client.get(path).json())
        check_uploads(client, stored)
    assert live.stop() == 0


def check_batch(client: httpx.Client, job: dict[str, Any]) -> None:
    """Each request once, in their order; the same answer before the kill and after."""
    good, bad = (
        [json.loads(line) for line in client.get(f"/v1/files/{job[name]}/content").text.splitlines()]
        for name in ("output_file", "error_file")
    )
    assert [line["custom_id"] for line in good] == [f"id-{n}" for n in range(NUM_REQUESTS) if n % 10]
    assert [line["custom_id"] for line in bad] == [f"id-{n}" for n in range(0, NUM_REQUESTS, 10)]
    answers = {json.dumps(line["response"]["body"]["choices"]) for line in good}
    assert len(answers) == 1  # the same question and seed


def check_uploads(client: httpx.Client, stored: dict[str, str]) -> None:
    """What was answered is whole, and what was not is not there."""
    everything = client.get("/v1/files", params={"page_size": 10_000}).json()["data"]
    listed = {file["id"]: file for file in everything if file["purpose"] == "user_data"}
    assert set(stored) <= set(listed)
    assert len(listed) <= len(stored) + 4  # stored, but killed before the answer was out: two workers, two kills
    for file_id, file in listed.items():
        content = client.get(f"/v1/files/{file_id}/content").text
        assert len(content) == file["bytes"]
        assert content == stored.get(file_id, content)
        assert content.startswith(("0 ", "1 "))

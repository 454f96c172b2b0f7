"""Samples to fine-tune on, uploaded."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from typing import Any

import httpx
from fastapi.testclient import TestClient

PATH = "/v1/fine_tuning/jobs"
PATIENCE_S = 300.0
ENDED = ("SUCCESS", "FAILED", "FAILED_VALIDATION", "CANCELLED")
Client = httpx.Client | TestClient


def conversation(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def greetings(count: int = 24) -> list[dict[str, Any]]:
    """Whatever is asked, the answer is one fixed line."""
    return [conversation(f"Question number {n}?", "Ahoy, sailor!") for n in range(count)]


def moods(count: int = 24) -> list[dict[str, Any]]:
    """Texts whose last word tells the label."""
    return [
        {"text": f"Day {n} was {word}", "labels": {"mood": label, "topics": ["days", *(["rain"] if n % 2 else [])]}}
        for n, (word, label) in zip(range(count), [("good", "glad"), ("bad", "sad")] * count, strict=False)
    ]


def upload(client: Client, lines: Iterable[Mapping[str, Any] | str], **headers: str) -> str:
    """The id of the file."""
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    files = {"file": ("samples.jsonl", text.encode())}
    answer = client.post("/v1/files", files=files, data={"purpose": "fine-tune"}, headers=headers)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def job_until(client: Client, job_id: str, statuses: Iterable[str] = ENDED) -> dict[str, Any]:
    """The job, once it has one of `statuses` or has ended."""
    started = time.monotonic()
    while True:
        job: dict[str, Any] = client.get(f"{PATH}/{job_id}").json()
        if job["status"] in (*statuses, *ENDED):
            return job
        assert time.monotonic() - started < PATIENCE_S, job
        time.sleep(0.05)

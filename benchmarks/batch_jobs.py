"""Batches beside the same requests over HTTP, and how long a user waits for the first token while a batch runs.

python -m benchmarks.batch_jobs [--requests 96] [--tokens 48] [--rounds 3] [--threads N]
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
from tests.server.live import start_server

from benchmarks._http_streams import prompts, quantile
from benchmarks._results import record
from benchmarks.server_load import write_model

ENDPOINT = "/v1/completions"
AT_ONCE = 8
NUM_USERS = 12
"""Users that come one after another."""


def bodies(texts: Sequence[str], num_tokens: int) -> list[dict[str, Any]]:
    return [
        {"model": "bench", "prompt": text, "max_tokens": num_tokens, "min_tokens": num_tokens, "temperature": 0}
        for text in texts
    ]


def create(client: httpx.Client, requests: Sequence[dict[str, Any]]) -> str:
    answer = client.post("/v1/batch/jobs", json={"endpoint": ENDPOINT, "requests": [{"body": b} for b in requests]})
    return str(answer.raise_for_status().json()["id"])


def wait(client: httpx.Client, job_id: str) -> None:
    while (job := client.get(f"/v1/batch/jobs/{job_id}").json())["completed_at"] is None:
        time.sleep(0.02)
    if (job["status"], job["failed_requests"]) != ("SUCCESS", 0):
        raise RuntimeError(f"the batch has ended as {job}")


def batch_s(client: httpx.Client, requests: Sequence[dict[str, Any]]) -> float:
    started = time.perf_counter()
    wait(client, create(client, requests))
    return time.perf_counter() - started


def http_s(client: httpx.Client, requests: Sequence[dict[str, Any]]) -> float:
    started = time.perf_counter()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for answer in pool.map(lambda body: client.post(ENDPOINT, json=body), requests):
            answer.raise_for_status()
    return time.perf_counter() - started


def first_tokens_s(client: httpx.Client, texts: Sequence[str]) -> list[float]:
    found = []
    for body in bodies(texts, 8):
        started = time.perf_counter()
        with client.stream("POST", ENDPOINT, json={**body, "stream": True}) as answer:
            lines = answer.iter_lines()
            next(line for line in lines if line.startswith("data: "))
            found.append(time.perf_counter() - started)
            for _ in lines:
                pass
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=96)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = write_model(Path(folder) / "model")
        os.environ.pop("OMP_NUM_THREADS", None)
        arguments = [f"bench={model}", "--threads", wanted.threads, "--batch-concurrency", AT_ONCE]
        live = start_server(Path(folder) / "home", [*arguments, "--max-seq-len", 1024])
        try:
            with live.client() as client:
                row = measure(client, wanted)
        finally:
            code = live.stop()
    record("batch_jobs", [row | {"exit_code": code}])


def measure(client: httpx.Client, wanted: argparse.Namespace) -> dict[str, Any]:
    http_s(client, bodies(prompts(AT_ONCE, 1), 8))  # what is made at first use, is made
    as_batch, over_http, idle, busy = [], [], [], []
    for number in range(wanted.rounds):
        as_batch.append(batch_s(client, bodies(prompts(wanted.requests, 100 + number), wanted.tokens)))
        over_http.append(http_s(client, bodies(prompts(wanted.requests, 200 + number), wanted.tokens)))
        idle += first_tokens_s(client, prompts(NUM_USERS, 300 + number))
        job_id = create(client, bodies(prompts(4 * wanted.requests, 400 + number), wanted.tokens))
        while not client.get(f"/v1/batch/jobs/{job_id}").json()["completed_requests"]:
            time.sleep(0.02)
        busy += first_tokens_s(client, prompts(NUM_USERS, 500 + number))
        if client.post(f"/v1/batch/jobs/{job_id}/cancel").raise_for_status().json()["completed_at"] is not None:
            raise RuntimeError("the batch was over before the users were; give more --requests")
        while client.get(f"/v1/batch/jobs/{job_id}").json()["completed_at"] is None:
            time.sleep(0.02)
    return {
        "requests": wanted.requests,
        "tokens": wanted.tokens,
        "at_once": AT_ONCE,
        "threads": wanted.threads,
        "batch_requests_per_s": wanted.requests / statistics.median(as_batch),
        "http_requests_per_s": wanted.requests / statistics.median(over_http),
        "share": statistics.median(b / a for a, b in zip(as_batch, over_http, strict=True)),
        "first_token_idle_p50_s": quantile(idle, 0.5),
        "first_token_idle_p99_s": quantile(idle, 0.99),
        "first_token_beside_a_batch_p50_s": quantile(busy, 0.5),
        "first_token_beside_a_batch_p99_s": quantile(busy, 0.99),
    }


if __name__ == "__main__":
    main()

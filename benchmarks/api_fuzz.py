"""Requests made up from the server's own OpenAPI schema: none may be answered by 500, hang, or break the schema. Then
half as many with response formats and tools that cannot be served: 400 each, and the same server at the end.

python -m benchmarks.api_fuzz [CASES]
"""

from __future__ import annotations

import itertools
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.server.fuzz import fuzz
from tests.server.invalid_formats import invalid_requests
from tests.server.live import LiveServer, start_server
from tests.tiny_checkpoint import write_tiny_checkpoint

from benchmarks._results import record

CASES = 10_000


def refusals(live: LiveServer, count: int) -> dict[str, int]:
    """How many invalid formats were answered by which status."""
    statuses: Counter[str] = Counter()
    with live.client() as client:
        for fields in itertools.islice(invalid_requests(seed=2), count):
            body = {"model": "chat", "messages": [{"role": "user", "content": "x"}], **fields}
            statuses[str(client.post("/v1/chat/completions", json=body).status_code)] += 1
        if live.process.poll() is not None or client.get("/health").json()["status"] != "ok":
            raise AssertionError("the server has not survived")
    return dict(statuses)


def main() -> None:
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else CASES
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_tiny_checkpoint(Path(folder) / "chat", vocabulary="v7-small")
        live = start_server(Path(folder) / "home", [checkpoint, "--max-seq-len", 96])
        try:
            started = time.monotonic()
            report = fuzz(live.url, wanted, model="chat")
            seconds = time.monotonic() - started
            formats = refusals(live, wanted // 2)
        finally:
            code = live.stop()
    row = {
        "cases": report.num_cases,
        "statuses": {str(status): count for status, count in sorted(report.statuses.items())},
        "slowest_s": report.slowest_s,
        "seconds": seconds,
        "invalid_formats": formats,
        "exit_code": code,
    }
    record("api_fuzz", [row])


if __name__ == "__main__":
    main()

"""Requests made up from the server's own OpenAPI schema: none may be answered by 500, hang, or break the schema.

python -m benchmarks.api_fuzz [CASES]
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from tests.server.fuzz import fuzz
from tests.server.live import start_server
from tests.tiny_checkpoint import write_tiny_checkpoint

from benchmarks._results import record

CASES = 10_000


def main() -> None:
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else CASES
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_tiny_checkpoint(Path(folder) / "chat", vocabulary="v7-small")
        live = start_server(Path(folder) / "home", [checkpoint, "--max-seq-len", 96])
        try:
            started = time.monotonic()
            report = fuzz(live.url, wanted, model="chat")
            seconds = time.monotonic() - started
        finally:
            code = live.stop()
    row = {
        "cases": report.num_cases,
        "statuses": {str(status): count for status, count in sorted(report.statuses.items())},
        "slowest_s": report.slowest_s,
        "seconds": seconds,
        "exit_code": code,
    }
    record("api_fuzz", [row])


if __name__ == "__main__":
    main()

"""Whether what is charged is what was computed, to the token, when clients leave at any moment.

Chats, completions, responses, embeddings and moderations, whole and streamed, with several answers, stop strings and
predictions, most of them left at a random moment: the sums over the records that usage and limits are made of, beside
the engine's own counters. Ends with 1 where they differ.

    python -m benchmarks.metering [--requests 10000] [--seed 1]
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient
from tests.server.in_process import serving
from tests.server.random_disconnects import Tally, tally
from tests.tiny_checkpoint import write_tiny_checkpoint

from benchmarks._results import record


def left_at_random(client: TestClient, num_requests: int, seed: int) -> Tally:
    app: Any = client.app
    portal: Any = client.portal
    found: Tally = portal.call(tally, app.state.services, random.Random(seed), num_requests)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_tiny_checkpoint(Path(folder) / "chat", vocabulary="v7-small", max_seq_len=2048)
        with serving({"chat": checkpoint}, Path(folder) / "state") as client:
            started = time.perf_counter()
            found = left_at_random(client, wanted.requests, wanted.seed)
            seconds = time.perf_counter() - started
    record("metering", [{"requests": wanted.requests, **dataclasses.asdict(found), "seconds": seconds}])
    return int(
        found.engine_prompt_tokens != found.charged_prompt_tokens
        or found.engine_answer_tokens != found.charged_answer_tokens
    )


if __name__ == "__main__":
    sys.exit(main())

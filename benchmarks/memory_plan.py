"""Starts of the server with as much memory as chance allows: each refuses in one line with numbers, or serves a request
of the whole context and keeps below its limit.

    python -m benchmarks.memory_plan [MODEL] [--starts 20] [--seed 1] [--context 2048]

Half of the limits are told to the server as those of its cgroup are, and held against the most of anonymous memory that
it has with its children; the others are the kernel's, on address space (RLIMIT_AS). Where an asked-for size is drawn
(--kv-cache-gib), it may be far too large.
"""

from __future__ import annotations

import argparse
import random
import re
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from tests.server.live import LiveServer, start_server

from benchmarks._http_streams import memory_bytes
from benchmarks._results import record

MB = 10**6
LIMITS_MB = {"cgroup": (250, 1600), "address space": (1100, 4000)}
SAMPLE_S = 0.02
REFUSAL = re.compile(r"^error: .*\d[\d.,]* (?:GB|GiB|bytes).*\d[\d.,]* (?:GB|GiB|bytes|for)")


class Peak:
    """The most of anonymous memory that a process has had with its children."""

    def __init__(self, pid: int) -> None:
        self.num_bytes = 0
        self._pid = pid
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._is_over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._is_over.wait(SAMPLE_S):
            try:
                self.num_bytes = max(self.num_bytes, sum(memory_bytes(pid) for pid in family(self._pid)))
            except OSError:  # one of them has ended
                continue


def family(pid: int) -> Iterator[int]:
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            yield from family(int(child))


def command(kind: str, limit_mb: int) -> tuple[str, list[str]]:
    """The module that is `tramontane`, and what runs it."""
    if kind == "cgroup":
        return "tests.server.limited_server", ["env", f"MEMORY_LIMIT_BYTES={limit_mb * MB}"]
    return "tramontane.cli", ["prlimit", f"--as={limit_mb * MB}"]


def one_start(kind: str, limit_mb: int, arguments: list[str]) -> dict[str, Any]:
    row: dict[str, Any] = {"kind": kind, "limit_mb": limit_mb, "arguments": " ".join(arguments[1:])}
    module, launcher = command(kind, limit_mb)
    with tempfile.TemporaryDirectory() as home:
        try:
            live = start_server(Path(home), arguments, module=module, launcher=launcher)
        except AssertionError as error:
            said = [line for line in str(error).splitlines()[1:] if line and " INFO " not in line]
            is_told = len(said) == 1 and REFUSAL.match(said[0]) is not None
            return row | {"outcome": "refused" if is_told else "died at its start", "said": said[-1:]}
        with watched(live) as peak:
            status = whole_context(live)
        code = live.stop() if live.process.poll() is None else live.process.returncode
    outcome = "served"
    if status != 200 or code != 0:
        outcome = f"status {status}, exit code {code}"
    elif kind == "cgroup" and peak.num_bytes > limit_mb * MB:
        outcome = "beyond its limit"
    return row | {"outcome": outcome, "peak_mb": peak.num_bytes // MB}


@contextmanager
def watched(live: LiveServer) -> Iterator[Peak]:
    peak = Peak(live.process.pid)
    try:
        yield peak
    finally:
        peak.close()


def whole_context(live: LiveServer) -> int:
    """The status of a request that fills the context and asks for the scores of all of it."""
    with httpx.Client(base_url=live.url, timeout=600) as client:
        try:
            card = client.get("/v1/models").json()["data"][0]
            prompt = [500 + n % 1000 for n in range(card["max_context_length"] - 1)]
            body = {"model": card["id"], "prompt": prompt, "max_tokens": 1, "logprobs": 5, "echo": True}
            return client.post("/v1/completions", json=body).status_code
        except httpx.HTTPError:
            return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="default")
    parser.add_argument("--starts", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--context", type=int, default=2048, help="--max-seq-len of the server")
    wanted = parser.parse_args()
    draw = random.Random(wanted.seed)
    rows = []
    started = time.monotonic()
    for number in range(wanted.starts):
        kind = list(LIMITS_MB)[number % 2]
        limit_mb = draw.randrange(*LIMITS_MB[kind])
        cache = ["--kv-cache-gib", f"{draw.uniform(0.01, 2):.2f}"] if draw.random() < 0.4 else []
        rows.append(one_start(kind, limit_mb, [wanted.model, "--max-seq-len", str(wanted.context), *cache]))
        print(rows[-1], flush=True)
    outcomes = Counter(row["outcome"] for row in rows)
    served = [row for row in rows if row["outcome"] == "served" and row["kind"] == "cgroup"]
    row = {
        "model": wanted.model,
        "starts": wanted.starts,
        **{name.replace(" ", "_"): count for name, count in sorted(outcomes.items())},
        "fullest": max((row["peak_mb"] / row["limit_mb"] for row in served), default=0.0),
        "seconds": time.monotonic() - started,
    }
    record("memory_plan", [row])
    if set(outcomes) - {"served", "refused"}:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

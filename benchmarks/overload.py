"""Ten times as many readers as the engine computes answers for, and more than may wait, again and again: each request
is answered whole or told 429 with `Retry-After`, which its reader honours; memory does not grow.

    python -m benchmarks.overload [MODEL] [--seconds 180] [--times 10] [--max-sequences 64] [--max-waiting 256]
                                  [--tokens 64] [--threads 1]

An hour: `--seconds 3600`. The readers take of the server's cores.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
from tests.server.live import LiveServer, start_server

from benchmarks._http_streams import Stream, completion_body, memory_bytes, metric, prompts, quantile, read_stream
from benchmarks._results import record

SAMPLE_S = 1.0
FULL = "waiting already"
"""Said where the queue is full: in the stream, by an engine that took ten seconds to say so."""


class Crowd:
    def __init__(self, live: LiveServer, wanted: argparse.Namespace) -> None:
        self.live, self.wanted = live, wanted
        self.streams: list[Stream] = []
        self.memory: list[tuple[float, float]] = []
        self.health_s: list[float] = []
        self.broken: Counter[str] = Counter()

    async def run(self) -> dict[str, Any]:
        self.started = time.monotonic()
        watching = asyncio.create_task(self.watch())
        await asyncio.gather(*map(self.read, range(self.wanted.times * self.wanted.max_sequences)))
        took = time.monotonic() - self.started
        watching.cancel()
        statuses = Counter(stream.status for stream in self.streams)
        whole = [stream for stream in self.streams if stream.is_whole]
        refused = [stream for stream in self.streams if stream.status == 429]
        late = [stream for stream in self.streams if stream.status == 200 and FULL in stream.error]
        others = Counter(
            f"{stream.status} {stream.error}" for stream in self.streams
            if not (stream.is_whole or stream.status == 429 or FULL in stream.error)
        )  # fmt: skip
        others.update(self.broken)
        before, after = (
            statistics.median(size for at, size in self.memory if low <= at / took <= high)
            for low, high in ((0.2, 0.4), (0.8, 1.0))
        )
        return {
            "seconds": took,
            "readers": self.wanted.times * self.wanted.max_sequences,
            "requests": len(self.streams) + self.broken.total(),
            "answered": len(whole),
            "refused_429": len(refused),
            "refused_in_the_stream": len(late),
            "without_retry_after": sum(stream.retry_after_s is None for stream in refused),
            "5xx": sum(count for status, count in statuses.items() if status >= 500),
            "others": dict(others),
            "first_token_p50_s": quantile([stream.first_s for stream in whole], 0.5),
            "first_token_p99_s": quantile([stream.first_s for stream in whole], 0.99),
            "first_token_max_s": max(stream.first_s for stream in whole),
            "refusal_p99_s": quantile([stream.end_s for stream in refused], 0.99) if refused else 0.0,
            "health_p99_s": quantile(self.health_s, 0.99),
            "memory_mib": after / 2**20,
            "growth_mib": (after - before) / 2**20,
        }

    async def read(self, number: int) -> None:
        draw = random.Random(number)
        turn = 0
        while time.monotonic() - self.started < self.wanted.seconds:
            [prompt] = prompts(1, 10**6 + number * 10**4 + turn)
            turn += 1
            try:
                stream = await read_stream(self.live.url, completion_body(prompt, self.wanted.tokens))
            except OSError as error:
                self.broken[type(error).__name__] += 1
                continue
            self.streams.append(stream)
            if stream.status == 429:
                await asyncio.sleep((stream.retry_after_s or 0) * draw.uniform(1, 2))

    async def watch(self) -> None:
        async with httpx.AsyncClient(base_url=self.live.url, timeout=60) as client:
            while True:
                asked = time.monotonic()
                await client.get("/health")
                self.health_s.append(time.monotonic() - asked)
                self.memory.append((time.monotonic() - self.started, memory_bytes(self.live.process.pid)))
                await asyncio.sleep(SAMPLE_S)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="default")
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--max-sequences", type=int, default=64)
    parser.add_argument("--max-waiting", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    wanted = parser.parse_args()
    os.environ.pop("OMP_NUM_THREADS", None)
    options = [f"bench={wanted.model}", "--threads", wanted.threads, "--max-sequences", wanted.max_sequences]
    with tempfile.TemporaryDirectory() as home:
        live = start_server(Path(home), [*options, "--max-waiting", wanted.max_waiting])
        try:
            row = asyncio.run(Crowd(live, wanted).run()) | {"held_pages": metric(live.url, "engine_held_pages")}
        finally:
            code = live.stop()
    record("overload", [{"model": wanted.model, **row, "exit_code": code}])
    if row["5xx"] or row["others"] or row["without_retry_after"] or code:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

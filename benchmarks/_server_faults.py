"""What a server is put through: load without end, readers that leave, answers that must hold nothing of others'."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

from tests.server.live import LiveServer

from benchmarks._http_streams import Stream, completion_body, memory_bytes, metric, prompts, quantile, read_stream

SAMPLE_S = 2.0
PAGES_BACK_S = 60.0


def soak(live: LiveServer, seconds: float, num_streams: int, num_tokens: int) -> dict[str, Any]:
    """So many readers ask again and again. Memory is compared between the second fifth of the time and the last: all
    of it, and that beside the pages of the KV cache, which are reserved at the start and become resident at first use.
    """
    return asyncio.run(_soak(live, seconds, num_streams, num_tokens))


async def _soak(live: LiveServer, seconds: float, num_streams: int, num_tokens: int) -> dict[str, Any]:
    started = time.monotonic()
    memory: list[tuple[float, float, float]] = []  # seconds, bytes in all, bytes of KV pages that were used
    streams: list[list[Stream]] = [[] for _ in range(num_streams)]

    async def reader(number: int) -> None:
        while time.monotonic() - started < seconds:
            [prompt] = prompts(1, 10**6 + number * 10**4 + len(streams[number]))
            streams[number].append(await read_stream(live.url, completion_body(prompt, num_tokens)))

    async def watch() -> None:
        while True:
            of_pages = await asyncio.to_thread(metric, live.url, "engine_touched_bytes")
            memory.append((time.monotonic() - started, memory_bytes(live.process.pid), of_pages))
            await asyncio.sleep(SAMPLE_S)

    watching = asyncio.create_task(watch())
    await asyncio.gather(*map(reader, range(num_streams)))
    took = time.monotonic() - started
    watching.cancel()
    early, late = (
        [(size, of_pages) for at, size, of_pages in memory if low <= at / took <= high]
        for low, high in ((0.2, 0.4), (0.8, 1.0))
    )

    def growth(which: Callable[[float, float], float]) -> float:
        return statistics.median(which(*pair) for pair in late) / statistics.median(which(*pair) for pair in early) - 1

    answers = [stream for own in streams for stream in own]
    first = [stream.first_s for stream in answers]
    return {
        "soak_s": took,
        "soak_answers": len(answers),
        "soak_errors": sum(not stream.is_whole for stream in answers),
        "soak_tokens_per_s": len(answers) * num_tokens / took,
        "soak_first_token_p50_s": quantile(first, 0.5),
        "soak_first_token_p99_s": quantile(first, 0.99),
        "soak_answers_of_a_reader_min": min(map(len, streams)),
        "soak_answers_of_a_reader_max": max(map(len, streams)),
        "soak_memory_mib": late[-1][0] / 2**20,
        "soak_kv_pages_mib": late[-1][1] / 2**20,
        "soak_memory_growth": growth(lambda size, of_pages: size),
        "soak_memory_growth_beside_pages": growth(lambda size, of_pages: size - of_pages),
        "soak_preemptions": metric(live.url, "engine_preemptions"),
        "soak_evictions": metric(live.url, "engine_evictions"),
        "soak_held_pages": metric(live.url, "engine_held_pages"),
    }


def disconnects(live: LiveServer, count: int, num_streams: int, num_tokens: int) -> dict[str, Any]:
    """Readers that leave after a few events of an answer of `num_tokens`. After each wave, the time and the steps
    until no page is held; the numbers are asked for over HTTP, which is part of the time."""
    draw = random.Random(7)
    seconds: list[float] = []
    steps: list[float] = []
    events: list[int] = []
    while len(events) < count:
        size = min(num_streams, count - len(events))
        leave_after = [draw.randrange(1, 40) for _ in range(size)]
        texts = prompts(size, 2 * 10**6 + len(events))

        async def wave(texts: list[str] = texts, leave_after: list[int] = leave_after) -> list[Stream]:
            return await asyncio.gather(
                *(
                    read_stream(live.url, completion_body(text, num_tokens), leave_after=after)
                    for text, after in zip(texts, leave_after, strict=True)
                )
            )

        left = asyncio.run(wave())
        if any(stream.is_whole or not stream.num_events for stream in left):
            raise RuntimeError("a reader did not leave in mid-stream")
        events += [stream.num_events for stream in left]
        gone = time.monotonic()
        before = metric(live.url, "engine_steps")
        while metric(live.url, "engine_held_pages"):
            if time.monotonic() - gone > PAGES_BACK_S:
                raise RuntimeError("pages are still held")
        seconds.append(time.monotonic() - gone)
        steps.append(metric(live.url, "engine_steps") - before)
    return {
        "disconnects": count,
        "pages_back_p50_s": statistics.median(seconds),
        "pages_back_max_s": max(seconds),
        "steps_until_back_max": max(steps),
    }

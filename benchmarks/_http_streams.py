"""Many streams from one server at once, and what its numbers say meanwhile."""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

WORDS = ("wind", "rain", "sea", "cold", "north", "hill", "snow", "cloud", "bird", "stone")
PROMPT_WORDS = 100


@dataclass
class Stream:
    """What the reader saw of one answer; seconds since it was asked for. `is_whole`: it ended as it should. `status` 0:
    there was none. `error`: what its last event says of one."""

    first_s: float
    end_s: float
    num_events: int
    is_whole: bool
    status: int
    retry_after_s: int | None
    error: str


def prompts(count: int, seed: int) -> list[str]:
    """All different from the first word on, so that none is in the prefix cache."""
    draw = random.Random(seed)
    return [f"{seed}/{i} " + " ".join(draw.choices(WORDS, k=PROMPT_WORDS)) for i in range(count)]


def completion_body(prompt: str, num_tokens: int) -> dict[str, Any]:
    """For exactly so many tokens."""
    return {"model": "bench", "prompt": prompt, "max_tokens": num_tokens, "temperature": 0, "stream": True,
            "min_tokens": num_tokens}  # fmt: skip


async def read_stream(url: str, body: dict[str, Any], *, leave_after: int | None = None) -> Stream:
    """Reads bare bytes, to cost the server's cores little. With `leave_after`, the connection is closed after so many
    events."""
    host, port = url.removeprefix("http://").split(":")
    started = time.perf_counter()
    reader, writer = await asyncio.open_connection(host, int(port))
    content = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Connection: close\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content)
    first, num_events, answer_head, tail = 0.0, 0, b"", b""
    try:
        while data := await reader.read(65536):
            answer_head = answer_head or data
            tail = (tail + data)[-2048:]
            count = data.count(b"data: {")
            if count and not first:
                first = time.perf_counter() - started
            num_events += count
            if leave_after is not None and num_events >= leave_after:
                break
    finally:
        writer.close()
    status = int(answer_head[9:12] or 0)
    retry_after = re.search(rb"\r\nretry-after: (\d+)\r\n", answer_head, re.I)
    is_whole = status == 200 and b'"length"' in tail and b"data: [DONE]" in tail
    error = re.search(rb'"error": ?\{"message": ?"([^"]*)', tail)
    return Stream(
        first, time.perf_counter() - started, num_events, is_whole, status,
        int(retry_after[1]) if retry_after else None, error[1].decode() if error else "",
    )  # fmt: skip


async def read_streams(url: str, texts: Sequence[str], num_tokens: int) -> tuple[float, list[Stream]]:
    """Seconds from the first request to the end of the last answer, and what was seen of each."""
    started = time.perf_counter()
    streams = await asyncio.gather(*(read_stream(url, completion_body(text, num_tokens)) for text in texts))
    return time.perf_counter() - started, streams


def http_round(url: str, texts: Sequence[str], num_tokens: int) -> tuple[float, list[Stream]]:
    """Tokens per second. Raises RuntimeError if an answer ended early."""
    seconds, streams = asyncio.run(read_streams(url, texts, num_tokens))
    if not all(stream.is_whole for stream in streams):
        raise RuntimeError("some answers ended early")
    return len(texts) * num_tokens / seconds, streams


def memory_bytes(pid: int) -> int:
    """RssAnon and swap: what a leak would grow."""
    text = Path(f"/proc/{pid}/status").read_text()
    return sum(int(kb) * 1024 for kb in re.findall(r"^(?:RssAnon|VmSwap):\s+(\d+) kB", text, re.M))


def metric(url: str, name: str, token: str | None = None) -> float:
    """The sum over its labels. `token`: of a key of scope admin, where there are keys."""
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    text = httpx.get(f"{url}/metrics", timeout=60, headers=headers).raise_for_status().text
    return sum(map(float, re.findall(rf"^tramontane_{name}(?:\{{[^}}]*\}})? (\S+)", text, re.M)))


def quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[round(share * (len(ordered) - 1))]

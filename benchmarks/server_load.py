"""Streams over HTTP beside the bare engine: as many sequences, the same model, alternating on the same machine.

The reader of the streams runs on the same cores as the server; it counts events and looks at nothing else.

    python -m benchmarks.server_load [MODEL] [--streams 64] [--rounds 3] [--tokens 192] [--soak SECONDS]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from tests.model.tiny import tiny_config, tiny_model
from tests.server.live import LiveServer, start_server
from tests.tokenizer.vocabularies import ours

from benchmarks._results import record
from tramontane.engine.sampling import SamplingParams
from tramontane.llm import LLM
from tramontane.loading import save_checkpoint

WORDS = ("wind", "rain", "sea", "cold", "north", "hill", "snow", "cloud", "bird", "stone")
PROMPT_WORDS = 100


@dataclass
class Stream:
    """What the reader saw of one answer."""

    first_s: float
    end_s: float
    num_events: int


def write_model(out: Path) -> Path:
    """Random weights in the shape of the default model: 14 layers of width 384."""
    tokenizer = ours("v7-small")
    config = tiny_config(
        dim=384, n_layers=14, n_heads=6, n_kv_heads=2, head_dim=64, hidden_dim=768, vocab_size=tokenizer.vocab_size,
        max_seq_len=1024,
    )  # fmt: skip
    tensors = tiny_model(config).state_dict().items()
    save_checkpoint(out, config, tensors, layout="hf", stored="BF16", tokenizer=tokenizer)
    return out


def prompts(count: int, seed: int) -> list[str]:
    """All different from the first word on, so that none is in the prefix cache."""
    draw = random.Random(seed)
    return [f"{i} " + " ".join(draw.choices(WORDS, k=PROMPT_WORDS)) for i in range(count)]


def engine_rate(llm: LLM, texts: Sequence[str], num_tokens: int) -> float:
    """Generated tokens per second from the first prompt's arrival to the last token."""
    params = SamplingParams(max_tokens=num_tokens, min_tokens=num_tokens)
    started = time.perf_counter()
    completions = llm.generate(texts, params)
    seconds = time.perf_counter() - started
    return sum(len(completion.token_ids) for completion in completions) / seconds


async def read_streams(url: str, texts: Sequence[str], num_tokens: int) -> tuple[float, list[Stream]]:
    """Seconds from the first request to the end of the last answer, and what was seen of each."""
    host, port = url.removeprefix("http://").split(":")
    started = time.perf_counter()

    async def read(text: str) -> Stream:
        reader, writer = await asyncio.open_connection(host, int(port))
        body = json.dumps(
            {"model": "bench", "prompt": text, "max_tokens": num_tokens, "temperature": 0, "stream": True,
             "min_tokens": num_tokens}
        ).encode()  # fmt: skip
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        first, num_events = 0.0, 0
        while data := await reader.read(65536):
            count = data.count(b"data: {")
            if count and not first:
                first = time.perf_counter() - started
            num_events += count
        writer.close()
        return Stream(first, time.perf_counter() - started, num_events)

    streams = await asyncio.gather(*map(read, texts))
    return time.perf_counter() - started, streams


def http_round(url: str, texts: Sequence[str], num_tokens: int) -> tuple[float, list[Stream]]:
    seconds, streams = asyncio.run(read_streams(url, texts, num_tokens))
    return len(texts) * num_tokens / seconds, streams


def memory_bytes(pid: int) -> int:
    """RssAnon and swap: what a leak would grow."""
    text = Path(f"/proc/{pid}/status").read_text()
    return sum(int(kb) * 1024 for kb in re.findall(r"^(?:RssAnon|VmSwap):\s+(\d+) kB", text, re.M))


def held_pages(url: str) -> float:
    text = httpx.get(f"{url}/metrics").text
    return sum(map(float, re.findall(r"tramontane_engine_held_pages\{[^}]*\} (\S+)", text)))


def generated_tokens(url: str) -> float:
    text = httpx.get(f"{url}/metrics").text
    return sum(map(float, re.findall(r"tramontane_completion_tokens_total\{[^}]*\} (\S+)", text)))


def quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[round(share * (len(ordered) - 1))]


def soak(live: LiveServer, seconds: float, num_streams: int, num_tokens: int) -> dict[str, Any]:
    """Round after round; memory after the first and at the end."""
    until = time.monotonic() + seconds
    memory: list[int] = []
    rounds = 0
    while time.monotonic() < until:
        http_round(live.url, prompts(num_streams, 1000 + rounds), num_tokens)
        memory.append(memory_bytes(live.process.pid))
        rounds += 1
    settled = memory[min(2, len(memory) - 1) :]
    return {"soak_s": seconds, "soak_rounds": rounds, "soak_memory_growth": settled[-1] / settled[0] - 1}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", nargs="?")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=192)
    parser.add_argument("--soak", type=float, default=0.0)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = wanted.model or str(write_model(Path(folder) / "model"))
        os.environ.pop("OMP_NUM_THREADS", None)
        threads = os.cpu_count() or 1
        live = start_server(Path(folder) / "home", [f"bench={model}", "--threads", threads, "--max-seq-len", 1024])
        llm = LLM(model, max_seq_len=1024, threads=threads)
        try:
            row = measure(llm, live, wanted)
        finally:
            code = live.stop()
    record("server_load", [row | {"exit_code": code}])


def measure(llm: LLM, live: LiveServer, wanted: argparse.Namespace) -> dict[str, Any]:
    num_streams, num_tokens = wanted.streams, wanted.tokens
    http_round(live.url, prompts(num_streams, 1), 8)  # what is made at first use, is made
    engine_rate(llm, prompts(num_streams, 1), 8)
    alone, served, first, spread = [], [], [], []
    for number in range(wanted.rounds):
        texts = prompts(num_streams, 10 + number)
        alone.append(engine_rate(llm, texts, num_tokens))
        before = generated_tokens(live.url)
        rate, streams = http_round(live.url, texts, num_tokens)
        if generated_tokens(live.url) - before != num_streams * num_tokens:
            raise RuntimeError("some answers ended early")
        served.append(rate)
        first += [stream.first_s for stream in streams]
        ends = [stream.end_s for stream in streams]
        spread.append(min(ends) / max(ends))
    row = {
        "streams": num_streams,
        "tokens": num_tokens,
        "engine_tokens_per_s": statistics.median(alone),
        "http_tokens_per_s": statistics.median(served),
        "share": statistics.median(b / a for a, b in zip(alone, served, strict=True)),
        "first_token_p50_s": quantile(first, 0.5),
        "first_token_p99_s": quantile(first, 0.99),
        "earliest_end_to_latest": statistics.median(spread),
        "memory_mib": memory_bytes(live.process.pid) / 2**20,
    }
    if wanted.soak:
        row |= soak(live, wanted.soak, num_streams, num_tokens)
    return row | {"held_pages_at_the_end": held_pages(live.url)}


if __name__ == "__main__":
    main()

"""llama.cpp's server, as llama-cpp-python brings it, on the same GGUF file as ours, taking turns."""

from __future__ import annotations

import contextlib
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from tests.server.live import start_server

from benchmarks._http_streams import Stream, http_round, prompts, quantile
from tramontane.hub import resolve_model
from tramontane.loading import convert, open_checkpoint

CONTEXT = 1024
TOKENS = 64
STREAMS = (1, 16)
START_S = 120.0


@contextlib.contextmanager
def llama_cpp_server(path: Path, log: Path, *, threads: int) -> Iterator[str]:
    """Its address. Without `interrupt_requests`, which by default cuts an answer short when another is asked for."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        *(sys.executable, "-m", "llama_cpp.server", "--model", str(path), "--model_alias", "bench"),
        *("--n_ctx", str(CONTEXT), "--n_threads", str(threads), "--n_threads_batch", str(threads)),
        *("--interrupt_requests", "False", "--verbose", "False", "--port", str(port)),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    url = f"http://127.0.0.1:{port}"
    with log.open("w") as out, subprocess.Popen(command, stdout=out, stderr=out, env=environment) as process:
        try:
            until = time.monotonic() + START_S
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if httpx.get(f"{url}/v1/models").is_success:
                        break
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"llama_cpp.server did not start:\n{log.read_text()[-2000:]}")
                time.sleep(0.2)
            yield url
        finally:
            process.terminate()


def beside_llama_cpp(model: str, folder: Path, *, threads: int, rounds: int) -> list[dict[str, Any]]:
    """A row for each number of streams: tokens per second and time to the first token of either server."""
    path = folder / "bench.gguf"
    convert(open_checkpoint(resolve_model(model)), path, layout="gguf", stored="F16")
    options = [f"bench={path}", "--threads", threads, "--max-seq-len", CONTEXT]
    live = start_server(folder / "beside", options)
    rows = []
    try:
        with llama_cpp_server(path, folder / "llama_cpp.log", threads=threads) as theirs:
            for num_streams in STREAMS:
                rates: dict[str, list[float]] = {"ours": [], "llama_cpp": []}
                seen: dict[str, list[Stream]] = {"ours": [], "llama_cpp": []}
                for turn in range(rounds + 1):
                    texts = prompts(num_streams, 3 * 10**6 + turn)
                    for key, url in (("ours", live.url), ("llama_cpp", theirs)):
                        rate, streams = http_round(url, texts, TOKENS)
                        if turn:  # the first round warms both
                            rates[key].append(rate)
                            seen[key] += streams
                rows.append(
                    {
                        "streams": num_streams,
                        "tokens": TOKENS,
                        "server_threads": threads,
                        "http_tokens_per_s": statistics.median(rates["ours"]),
                        "llama_cpp_http_tokens_per_s": statistics.median(rates["llama_cpp"]),
                        "ratio": statistics.median(a / b for a, b in zip(*rates.values(), strict=True)),
                        "first_token_p50_s": quantile([stream.first_s for stream in seen["ours"]], 0.5),
                        "llama_cpp_first_token_p50_s": quantile([s.first_s for s in seen["llama_cpp"]], 0.5),
                    }
                )
    finally:
        live.stop()
    return rows

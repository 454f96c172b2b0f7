"""Streams over HTTP: beside the bare engine and llama.cpp's server, for minutes on end, and with readers that leave.

The reader of the streams runs on the same cores as the server; it counts events and looks at nothing else.

    python -m benchmarks.server_load [MODEL] [--streams 64] [--rounds 3] [--tokens 192] [--soak SECONDS]
                                     [--disconnects COUNT] [--answers COUNT] [--seconds SECONDS] [--cache-gib SIZE]
                                     [--llama-cpp] [--threads COUNT]

MODEL is random weights in a shape of 14 layers of width 384 unless given; `default` is the embedded model. With
`--rounds 0` the bare engine is left out. `--answers` asks for that many answers whose texts are known, with readers
that leave and a cache so small that running answers lose their pages. `--llama-cpp` needs `pip install
'llama_cpp_python[server]'`.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.model.tiny import tiny_config, tiny_model
from tests.server.known_answers import ask_known
from tests.server.live import LiveServer, start_server
from tests.tokenizer.vocabularies import ours

from benchmarks._http_streams import http_round, memory_bytes, metric, prompts, quantile
from benchmarks._llama_cpp_server import beside_llama_cpp
from benchmarks._results import record
from benchmarks._server_faults import disconnects, soak
from tramontane.engine.sampling import SamplingParams
from tramontane.llm import LLM
from tramontane.loading import save_checkpoint

MAX_SEQ_LEN = 1024
LONG_ANSWER = 800
"""Tokens of the answers that readers leave."""
SMALL_CACHE_GIB = 0.003
"""Of `--answers`: 65 pages of the embedded model, where 64 of these answers need about 500."""


def write_model(out: Path) -> Path:
    """Random weights in 14 layers of width 384."""
    tokenizer = ours("v7-small")
    config = tiny_config(
        dim=384, n_layers=14, n_heads=6, n_kv_heads=2, head_dim=64, hidden_dim=768, vocab_size=tokenizer.vocab_size,
        max_seq_len=1024,
    )  # fmt: skip
    tensors = tiny_model(config).state_dict().items()
    save_checkpoint(out, config, tensors, layout="hf", stored="BF16", tokenizer=tokenizer)
    return out


def engine_rate(llm: LLM, texts: Sequence[str], num_tokens: int) -> float:
    """Generated tokens per second from the first prompt's arrival to the last token."""
    params = SamplingParams(max_tokens=num_tokens, min_tokens=num_tokens)
    started = time.perf_counter()
    completions = llm.generate(texts, params)
    seconds = time.perf_counter() - started
    return sum(len(completion.token_ids) for completion in completions) / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=192)
    parser.add_argument("--soak", type=float, default=0.0)
    parser.add_argument("--disconnects", type=int, default=0)
    parser.add_argument("--answers", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=math.inf, help="within which --answers begin")
    parser.add_argument("--cache-gib", type=float, help="default: the server's own; of --answers, a very small one")
    parser.add_argument("--llama-cpp", action="store_true")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    wanted = parser.parse_args()
    os.environ.pop("OMP_NUM_THREADS", None)
    with tempfile.TemporaryDirectory() as folder:
        model = wanted.model or str(write_model(Path(folder) / "model"))
        name = wanted.model or "random, 14 layers of width 384"
        options = [f"bench={model}", "--threads", wanted.threads, "--max-seq-len", MAX_SEQ_LEN]
        if wanted.rounds or wanted.soak or wanted.disconnects:
            cache = ["--kv-cache-gib", wanted.cache_gib] if wanted.cache_gib else []
            live = start_server(Path(folder) / "home", [*options, *cache])
            try:
                row = measure(model, live, wanted)
            finally:
                code = live.stop()
            record("server_load", [{"model": name} | row | {"exit_code": code}])
        if wanted.answers:
            cache = ["--kv-cache-gib", wanted.cache_gib or SMALL_CACHE_GIB]
            live = start_server(Path(folder) / "answers", [*options, *cache])
            try:
                row = known_answers(live, wanted)
            finally:
                code = live.stop()
            record("server_load", [{"model": name} | row | {"exit_code": code}])
        if wanted.llama_cpp:
            rows = beside_llama_cpp(model, Path(folder), threads=wanted.threads, rounds=wanted.rounds or 3)
            record("server_load", [{"model": name} | row for row in rows])


def known_answers(live: LiveServer, wanted: argparse.Namespace) -> dict[str, Any]:
    started = time.perf_counter()
    seen = ask_known(live.url, "bench", wanted.answers, num_readers=wanted.streams, seconds=wanted.seconds)
    row: dict[str, Any] = {
        "streams": wanted.streams,
        "answers": seen.num_whole,
        "left": seen.num_left,
        "wrong_answers": seen.num_wrong,
        "answers_s": time.perf_counter() - started,
    }
    for name in ("pages", "preemptions", "evictions"):
        row[name] = metric(live.url, f"engine_{name}")
    row["cached_tokens"] = metric(live.url, "cached_prompt_tokens_total")
    row["held_pages_at_the_end"] = metric(live.url, "engine_held_pages")
    if not (row["preemptions"] and row["evictions"]):
        raise RuntimeError(f"nothing was preempted, or nothing evicted; lower --cache-gib: {row}")
    return row


def measure(model: str, live: LiveServer, wanted: argparse.Namespace) -> dict[str, Any]:
    num_streams, num_tokens = wanted.streams, wanted.tokens
    http_round(live.url, prompts(num_streams, 1), 8)  # what is made at first use, is made
    row: dict[str, Any] = {"streams": num_streams, "tokens": num_tokens, "server_threads": wanted.threads}
    if wanted.rounds:
        row |= beside_the_engine(model, live, wanted)
    row["memory_mib"] = memory_bytes(live.process.pid) / 2**20
    if wanted.soak:
        row |= soak(live, wanted.soak, num_streams, num_tokens)
    if wanted.disconnects:
        row |= disconnects(live, wanted.disconnects, num_streams, LONG_ANSWER)
    return row | {"held_pages_at_the_end": metric(live.url, "engine_held_pages")}


def beside_the_engine(model: str, live: LiveServer, wanted: argparse.Namespace) -> dict[str, Any]:
    num_streams, num_tokens = wanted.streams, wanted.tokens
    llm = LLM(model, max_seq_len=MAX_SEQ_LEN, threads=wanted.threads)
    engine_rate(llm, prompts(num_streams, 1), 8)
    alone, served, first, spread = [], [], [], []
    for number in range(wanted.rounds):
        texts = prompts(num_streams, 10 + number)
        alone.append(engine_rate(llm, texts, num_tokens))
        before = metric(live.url, "completion_tokens_total")
        rate, streams = http_round(live.url, texts, num_tokens)
        if metric(live.url, "completion_tokens_total") - before != num_streams * num_tokens:
            raise RuntimeError("some answers ended early")
        served.append(rate)
        first += [stream.first_s for stream in streams]
        ends = [stream.end_s for stream in streams]
        spread.append(min(ends) / max(ends))
    return {
        "engine_tokens_per_s": statistics.median(alone),
        "http_tokens_per_s": statistics.median(served),
        "share": statistics.median(b / a for a, b in zip(alone, served, strict=True)),
        "first_token_p50_s": quantile(first, 0.5),
        "first_token_p99_s": quantile(first, 0.99),
        "earliest_end_to_latest": statistics.median(spread),
    }


if __name__ == "__main__":
    main()

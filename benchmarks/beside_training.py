"""How responsive a server stays while it trains a model: one stream with the job stopped and with it going on, in turn.

python -m benchmarks.beside_training [--nice 0 10 19] [--rounds 5] [--tokens 128] [--threads N]
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
from tests.server.fine_tuning.making import PATH, conversation, job_until, upload
from tests.server.live import start_server

from benchmarks._http_streams import http_round, prompts
from benchmarks._results import record, spread
from tramontane.hub import resolve_model

SETTLE_S = 1.0
"""Until a job that goes on again takes its share."""


def trained_tokens(client: httpx.Client, job_id: str) -> int:
    return int(client.get(f"{PATH}/{job_id}").json()["trained_tokens"] or 0)


def rounds_of(niceness: int, home: Path, options: argparse.Namespace) -> dict[str, object]:
    """Tokens per second and seconds to the first token, alone and beside a job."""
    model = resolve_model("default")
    live = start_server(home, [f"bench={model}", "--threads", options.threads, "--fine-tuning-nice", niceness])
    stopped: list[tuple[float, float]] = []
    going: list[tuple[float, float]] = []
    try:
        with live.client() as client:
            lines = [conversation(f"What is {n} and {n}?", f"It is {n + n}, of course. " * 4) for n in range(400)]
            body = {"model": "bench", "training_files": [upload(client, lines)]}
            job_id = client.post(PATH, json=body | {"hyperparameters": {"training_steps": 10**6}}).json()["id"]
            job_until(client, job_id, ["RUNNING"])
            while not trained_tokens(client, job_id):
                time.sleep(0.1)
            pid = int((home / "server" / "fine_tuning" / job_id / "train" / "pid").read_text("utf-8"))
            for _ in range(options.rounds):
                for number_of_signal, found in ((signal.SIGSTOP, stopped), (signal.SIGCONT, going)):
                    os.killpg(pid, number_of_signal)
                    time.sleep(SETTLE_S)
                    tokens_per_second, [stream] = http_round(
                        live.url, prompts(1, len(stopped) + options.rounds * len(going)), options.tokens
                    )
                    found.append((tokens_per_second, stream.first_s))
            before, started = trained_tokens(client, job_id), time.perf_counter()
            time.sleep(10)
            alone = (trained_tokens(client, job_id) - before) / (time.perf_counter() - started)
            client.post(f"{PATH}/{job_id}/cancel")
            job_until(client, job_id)
    finally:
        live.stop()
    return {
        "nice": niceness,
        "share_of_speed": spread([b / a for (a, _), (b, _) in zip(stopped, going, strict=True)]),
        "tokens_per_second_stopped": spread([a for a, _ in stopped]),
        "first_token_s_stopped": spread([a for _, a in stopped]),
        "first_token_s_going": spread([b for _, b in going]),
        "trained_tokens_per_second_idle_server": alone,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nice", type=int, nargs="+", default=[0, 10, 19])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(arguments)
    for niceness in options.nice:
        with tempfile.TemporaryDirectory() as home:
            row = rounds_of(niceness, Path(home), options)
        record("beside_training", [row | {"server_threads": options.threads}])


if __name__ == "__main__":
    main()

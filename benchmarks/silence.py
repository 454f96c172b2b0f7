"""A server whose engine stands still: when `/health` says so, and how long streams of each kind are silent.

python -m benchmarks.silence [MODEL] [--seconds 40]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import threading
import time
from pathlib import Path

import httpx
from tests.server.live import start_server
from tests.server.silent_streams import listen

from benchmarks._results import record

POLL_S = 0.1


class Watch:
    """Seconds from `began` until /health is red."""

    def __init__(self, url: str) -> None:
        self.began = time.monotonic()
        self.red_after_s: float | None = None
        self._url = url
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        with httpx.Client(base_url=self._url, timeout=60) as client:
            while not self._is_over.wait(POLL_S):
                if client.get("/health").status_code == 503:
                    self.red_after_s = time.monotonic() - self.began
                    return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="default")
    parser.add_argument("--seconds", type=float, default=40.0, help="of standstill")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        order = Path(folder) / "hang"
        order.touch()
        os.environ["HANGS_WHILE"] = str(order)
        options = [f"bench={wanted.model}", "--threads", 1]
        live = start_server(Path(folder) / "home", options, module="tests.server.hanging_server")
        try:
            watch = Watch(live.url)
            silences = asyncio.run(listen(live.url, "bench", wanted.seconds, order.unlink))
            watch.close()
        finally:
            order.unlink(missing_ok=True)
            code = live.stop()
    row = {
        "model": wanted.model,
        "seconds": wanted.seconds,
        "red_after_s": watch.red_after_s,
        "streams": len(silences),
        "longest_silence_s": {name: silence.longest_s for name, silence in silences.items()},
        "broken": [name for name, silence in silences.items() if not silence.is_whole],
        "exit_code": code,
    }
    record("silence", [row])
    if row["broken"] or code or watch.red_after_s is None:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

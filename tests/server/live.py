"""A real server in a process of its own, on a free port."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

START_S = 60.0
STOP_S = 120.0


@dataclass
class LiveServer:
    process: subprocess.Popen[str]
    url: str
    log: Path

    def client(self, **options: object) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, **options)  # type: ignore[arg-type]

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        with self.process:  # closes its pipe
            self.process.terminate()
            return self.process.wait(STOP_S)


def start_server(
    home: Path,
    arguments: Sequence[object],
    *,
    module: str = "tramontane.cli",
    port: int = 0,
    launcher: Sequence[str] = (),
) -> LiveServer:
    """`tramontane serve ARGUMENTS --port PORT`, once it answers (0: on a free one); its state lies in `home`, its log
    beside it. `launcher`: a command that
    runs another."""
    home.mkdir(parents=True, exist_ok=True)
    log = home / "server.log"
    environment = {**os.environ, "TRAMONTANE_HOME": str(home), "OMP_NUM_THREADS": "1"}
    command = [*launcher, sys.executable, "-m", module, "serve", *map(str, arguments), "--port", str(port)]
    with log.open("w", encoding="utf-8") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment)
    started = time.monotonic()
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("serving on "):
            return LiveServer(process, line.split()[2], log)
        assert time.monotonic() - started < START_S
    raise AssertionError(f"the server did not start:\n{log.read_text(encoding='utf-8')}")

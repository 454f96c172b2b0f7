"""A process is found again, judged and stopped by whoever comes after the one that began it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tramontane.server.fine_tuning.process import Process

PATIENCE_S = 60.0


def wait_for(condition: Callable[[], bool]) -> None:
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < PATIENCE_S
        time.sleep(0.01)


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def start(folder: Path, code: str, **options: int) -> Process:
    process = Process(folder)
    process.start(python(code), dict(os.environ), **options)
    return process


def test_what_it_leaves(tmp_path: Path) -> None:
    assert not Process(tmp_path / "never").is_alive
    assert Process(tmp_path / "never").exit_code is None
    code = "import os, sys; print(os.nice(0), os.getsid(0) == os.getppid()); print('why', file=sys.stderr); sys.exit(7)"
    process = start(tmp_path, code, niceness=3)
    wait_for(lambda: not process.is_alive)
    for seen in (process, Process(tmp_path)):
        assert seen.exit_code == 7
        assert seen.output == f"{min(19, os.nice(0) + 3)} True\n"
        assert seen.complaint == "why"
    start(tmp_path, "")
    wait_for(lambda: not Process(tmp_path).is_alive)
    assert Process(tmp_path).exit_code == 0


def test_it_outlives_its_server_and_is_found_again(tmp_path: Path) -> None:
    begin = (
        "import os, sys; from pathlib import Path; from tramontane.server.fine_tuning.process import Process\n"
        f"Process(Path({str(tmp_path)!r})).start([sys.executable, '-c', 'import time; print(1, flush=True); "
        "time.sleep(600)'], dict(os.environ))\nos.kill(os.getpid(), 9)"
    )
    assert subprocess.run(python(begin), check=False).returncode == -signal.SIGKILL
    adopted = Process(tmp_path)
    assert adopted.is_alive
    wait_for(lambda: adopted.output == "1\n")
    adopted.signal(signal.SIGKILL)
    wait_for(lambda: not adopted.is_alive)
    assert adopted.exit_code is None
    adopted.signal(signal.SIGKILL)  # whoever has its number now is left alone


def test_it_can_end_in_order_when_asked_to(tmp_path: Path) -> None:
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('saved', flush=True), sys.exit(75)))\n"
        "print('ready', flush=True)\ntime.sleep(600)"
    )
    process = start(tmp_path, code)
    wait_for(lambda: process.output == "ready\n")
    process.signal(signal.SIGTERM)
    wait_for(lambda: not process.is_alive)
    assert process.exit_code == 75
    assert process.output == "ready\nsaved\n"


@pytest.mark.skipif(sys.platform != "linux", reason="limits on data count what is mapped on Linux alone")
def test_memory_has_a_limit(tmp_path: Path) -> None:
    process = start(tmp_path, "bytearray(2**31)", memory_bytes=2**29)
    wait_for(lambda: not process.is_alive)
    assert process.exit_code == 1
    assert process.complaint == "MemoryError"

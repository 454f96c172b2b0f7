"""A process ends with the server that began it, and is judged and stopped by whoever comes after that."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tramontane.server.fine_tuning import process as process_module
from tramontane.server.fine_tuning.process import LOCK_FD, Process

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


def begun_by_another(folder: Path, code: str) -> subprocess.Popen[str]:
    """A server in a process of its own that has begun one, and its own thread is gone by then."""
    begin = (
        "import os, threading, time; from pathlib import Path; "
        "from tramontane.server.fine_tuning.process import Process\n"
        f"process = Process(Path({str(folder)!r}))\n"
        f"begin = lambda: process.start({python(code)!r}, dict(os.environ))\n"
        "thread = threading.Thread(target=begin); thread.start(); thread.join()\n"
        "print('begun', flush=True); time.sleep(600)"
    )
    server = subprocess.Popen(python(begin), stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    assert server.stdout.readline() == "begun\n"
    return server


SAVES = (
    "import signal, sys, time\n"
    "signal.signal(signal.SIGTERM, lambda *_: (print('saved', flush=True), sys.exit(75)))\n"
    "print('ready', flush=True)\ntime.sleep(600)"
)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("code", [75, 1])
def test_it_saves_and_ends_when_its_server_is_gone(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """With 1: it could not, since its folder was moved meanwhile, say."""
    with begun_by_another(tmp_path, SAVES.replace("75", str(code))) as server:
        left = Process(tmp_path)
        wait_for(lambda: left.output == "ready\n")
        assert left.is_alive
        server.send_signal(number)
        server.wait()
    wait_for(lambda: not left.is_alive)
    assert left.output == "ready\nsaved\n"
    assert left.exit_code is None
    assert not left.was_its_own_fault


def test_it_is_killed_where_it_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"
    grace = f"sleep {process_module.GRACE_S}"
    assert grace in process_module.SCRIPT
    monkeypatch.setattr(process_module, "SCRIPT", process_module.SCRIPT.replace(grace, "sleep 1"))
    process = start(tmp_path, code)
    wait_for(lambda: process.output == "1\n")
    process._let_go()  # as the end of the server would
    wait_for(lambda: not process.is_alive)
    assert process.exit_code is None
    assert not process.was_its_own_fault


def test_it_inherits_nothing_but_its_lock(tmp_path: Path) -> None:
    """Not the end of the pipe that keeps it alive, nor a file or socket that the server has open."""
    code = "import os; print(*sorted(int(name) for name in os.listdir('/proc/self/fd') if int(name) > 2))"
    with socket.socket() as listener, (tmp_path / "open").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        listener.listen()
        process = start(tmp_path / "job", code)
        wait_for(lambda: not process.is_alive)
    numbers = [int(each) for each in process.output.split()]
    assert numbers in ([LOCK_FD], [3, LOCK_FD])  # 3: the listing's own


@pytest.mark.parametrize(
    ("ends", "is_fault"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", True),
        ("os.abort()", True),
        ("os.kill(os.getpid(), signal.SIGKILL)", False),  # nobody was short of memory: somebody has done it
        ("os.kill(os.getpid(), signal.SIGTERM)", False),
        ("os.killpg(0, signal.SIGKILL)", False),
    ],
)
def test_whose_fault_it_was(tmp_path: Path, ends: str, is_fault: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_module, "oom_kills", lambda: 7)
    process = start(tmp_path, f"import os, resource, signal; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); {ends}")
    wait_for(lambda: not process.is_alive)
    assert process.exit_code is None
    assert process.was_its_own_fault == is_fault
    assert not Process(tmp_path).was_its_own_fault  # its server has ended since: perhaps it has ended them both
    kills = None if is_fault else 8
    monkeypatch.setattr(process_module, "oom_kills", lambda: kills)
    is_killed = "SIGKILL" in ends
    assert process.was_its_own_fault == (is_fault or is_killed)


def test_it_can_end_in_order_when_asked_to(tmp_path: Path) -> None:
    process = start(tmp_path, SAVES)
    wait_for(lambda: process.output == "ready\n")
    process.signal(signal.SIGTERM)
    wait_for(lambda: not process.is_alive)
    assert process.exit_code == 75
    assert process.output == "ready\nsaved\n"
    process.signal(signal.SIGKILL)  # whoever has its number now is left alone


@pytest.mark.skipif(sys.platform != "linux", reason="limits on data count what is mapped on Linux alone")
def test_memory_has_a_limit(tmp_path: Path) -> None:
    process = start(tmp_path, "bytearray(2**31)", memory_bytes=2**29)
    wait_for(lambda: not process.is_alive)
    assert process.exit_code == 1
    assert process.complaint == "MemoryError"

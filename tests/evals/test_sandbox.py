"""Programs that misbehave, run for real: what they try must fail, and nothing of them may be left."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from tramontane.errors import CapacityError
from tramontane.evals import sandbox
from tramontane.evals.sandbox import can_isolate, require_isolation, run_program

needs_namespaces = pytest.mark.skipif(not can_isolate(), reason="this machine lets no ordinary user make namespaces")


def test_a_program_passes_by_reaching_its_end() -> None:
    assert run_program("assert 1 + 1 == 2\nprint('noise')").passed
    verdict = run_program("def f(): return 3\nassert f() == 4, 'not four'")
    assert not verdict.passed
    assert verdict.reason == "AssertionError: not four"


@pytest.mark.parametrize("way_out", ["exit(0)", "import os; os._exit(0)", "import sys; sys.exit()"])
def test_leaving_early_does_not_pass(way_out: str) -> None:
    verdict = run_program(f"{way_out}\nassert False")
    assert not verdict.passed
    assert verdict.reason == "ended early (exit code 0)"


def test_endless_programs_are_ended_and_so_is_what_they_started(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    later = f"import time, pathlib; time.sleep(4); pathlib.Path({str(mark)!r}).touch()"
    program = (
        "import subprocess, sys\n"
        f"subprocess.Popen([sys.executable, '-c', {later!r}], start_new_session=True)\n"
        "while True: pass"
    )
    started = time.monotonic()
    verdict = run_program(program, timeout_s=1.5)
    assert verdict.reason == "took more than 1.5 s"
    assert time.monotonic() - started < 4
    if can_isolate():
        time.sleep(max(0.0, started + 6.5 - time.monotonic()))
        assert not mark.exists()


def test_memory_and_files_are_limited() -> None:
    assert run_program("x = bytearray(3 << 30)").reason == "MemoryError"
    assert not run_program("open('big', 'wb').write(b'x' * (1 << 26))").passed


def test_neither_our_environment_nor_our_modules_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_OURS", "x")
    assert run_program(
        "import os\nassert 'SECRET_OF_OURS' not in os.environ\nassert os.listdir() == ['program.py']"
    ).passed


@needs_namespaces
def test_there_is_no_network() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        program = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), timeout=2)"
        assert run_program(program, isolate=False).passed
        assert not run_program(program).passed


def test_code_is_refused_where_it_could_reach_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "can_isolate", lambda: False)
    with pytest.raises(CapacityError, match="--unisolated-code"):
        require_isolation()

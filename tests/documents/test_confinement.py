"""What a parser's process cannot do, whatever a file makes it do; and that it ends with whoever wanted its text."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tests.documents.sample_files import pdf_of
from tramontane.documents import sandbox
from tramontane.documents.sandbox import Limits, command, environment, limits_for, run_parser_async
from tramontane.errors import DataError

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a Linux kernel's limits")


def confined(code: str, *, network: bool = False, memory_mib: int = 256, **options: object) -> str:
    """What `code` prints in a process that is confined as a parser's."""
    start = (
        "import os, sys\nfrom tramontane.documents.confinement import confine\n"
        "from tramontane.documents.sandbox import Limits\n"
        f"confine(Limits(cpu_s=20, memory_bytes={memory_mib << 20}), parent=os.getppid(), network={network})\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", start + textwrap.dedent(code)],
        capture_output=True, text=True, check=False, timeout=300, **options,  # type: ignore[call-overload]
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def test_it_can_take_no_memory_without_end_and_write_no_file(tmp_path: Path) -> None:
    code = f"""
        try:
            bytearray(300 << 20)
            print("memory")
        except MemoryError:
            pass
        try:
            with open({str(tmp_path / "file")!r}, "wb", buffering=0) as file:
                file.write(b"x")
            print("file")
        except OSError:
            pass
    """
    assert confined(code) == ""


@LINUX
def test_it_can_reach_no_network_and_start_no_process() -> None:
    code = """
        import socket, subprocess
        for name, attempt in {
            "tcp": lambda: socket.socket(socket.AF_INET),
            "unix": lambda: socket.socket(socket.AF_UNIX),
            "pair": lambda: socket.socketpair(),
            "exec": lambda: os.execv("/bin/true", ["true"]),
            "fork": lambda: os.fork(),
            "kill": lambda: os.kill(os.getppid(), 0),
        }.items():
            try:
                attempt()
                print(name)
            except OSError:
                pass
    """
    assert confined(code) == ""


@LINUX
def test_what_fetches_has_the_network_and_nothing_more() -> None:
    code = """
        import socket
        socket.socket(socket.AF_INET).close()
        try:
            os.fork()
            print("fork")
        except OSError:
            pass
    """
    assert confined(code, network=True) == ""


def test_it_sees_no_password_and_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TRAMONTANE_DATABASE_URL", "TRAMONTANE_API_KEY", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "http_proxy"):
        monkeypatch.setenv(name, "CANARY")
    assert "CANARY" not in environment().values()
    assert environment()["PATH"] == os.environ["PATH"]


def test_time_grows_with_the_file_and_ends() -> None:
    assert limits_for(11).cpu_s == sandbox.BASE_CPU_S
    assert limits_for(6 << 20).cpu_s > limits_for(1 << 20).cpu_s
    assert limits_for(1 << 40).cpu_s == sandbox.MAX_CPU_S


SPINNING = ["-c", "import time\nwhile True: pass"]
SLEEPING = ["-c", "import time\ntime.sleep(600)"]


@pytest.mark.parametrize("code", [SPINNING, SLEEPING])
def test_a_child_ends_with_the_task_that_waits_for_it(code: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What a client that leaves cancels."""
    monkeypatch.setattr(sandbox, "command", lambda *_: [sys.executable, *code])

    async def leave() -> int:
        before = children()
        task = asyncio.ensure_future(run_parser_async("pdf", b"x" * 1_000_000, name="x", limits=limits_for(0)))
        while not (started := children() - before):
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return started.pop()

    child = asyncio.run(leave())
    assert not Path(f"/proc/{child}").exists()


def children() -> set[int]:
    return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


def test_a_child_that_says_more_than_it_may_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    endless = "import sys\nwhile True: sys.stdout.buffer.write(b'+' * 65536)"
    monkeypatch.setattr(sandbox, "command", lambda *_: [sys.executable, "-c", endless])
    with pytest.raises(DataError, match=r"^x: reading it broke off"):
        asyncio.run(run_parser_async("pdf", b"", name="x", limits=Limits(cpu_s=20, max_chars=100_000)))


def test_processor_time_that_runs_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    spin = (
        "import os\nfrom tramontane.documents.confinement import confine\n"
        "from tramontane.documents.sandbox import Limits\n"
        "confine(Limits(cpu_s=1), parent=os.getppid(), network=False)\nwhile True: pass"
    )
    monkeypatch.setattr(sandbox, "command", lambda *_: [sys.executable, "-P", "-c", spin])
    with pytest.raises(DataError, match=r"^x: reading it took more than 1 s of processor time; given up$"):
        asyncio.run(run_parser_async("pdf", b"", name="x", limits=Limits(cpu_s=1)))


@LINUX
def test_no_child_outlives_a_server_that_is_killed() -> None:
    """Its parent gets SIGKILL, and can do nothing for it any more."""
    parent = subprocess.Popen(
        [sys.executable, "-c", f"""
import subprocess, sys, time
from tramontane.documents.sandbox import command, limits_for
child = subprocess.Popen(command("pdf", limits_for(0)), stdin=subprocess.PIPE)
print(child.pid, flush=True)
child.stdin.write({pdf_of("x")!r})  # not closed: it waits for the rest
time.sleep(600)
"""],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    status = Path(f"/proc/{child}/status")
    while "Seccomp:\t2" not in status.read_text():  # until it has confined itself
        time.sleep(0.05)
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    deadline = time.monotonic() + 60
    while status.exists() and "State:\tZ" not in status.read_text():
        assert time.monotonic() < deadline, "the child lives on"
        time.sleep(0.05)


def test_a_child_whose_parent_is_gone_reads_nothing() -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("a Linux kernel's limits")
    orphan = [*command("pdf", limits_for(0))[:-1], "1"]  # 1 is not its parent
    done = subprocess.run(orphan, input=pdf_of("x"), capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")

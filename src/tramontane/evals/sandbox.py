"""Programs that a model wrote, run where they can do little harm.

A child process of its own session, in new user, network, process, mount and IPC namespaces (Linux), with limits on
memory, processor time, file sizes and open files, in an empty folder that is removed afterwards, with an empty
environment; the whole group is killed at the time limit. Files that this user may read or write elsewhere are not
hidden from it: run evaluations of code as a user who has little to lose.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO

from tramontane.errors import CapacityError

CHILD = Path(__file__).with_name("sandbox_child.py")
MAX_OUTPUT_BYTES = 2000


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a program ran to its end; else what stopped it."""

    passed: bool
    reason: str


def run_program(program: str, *, timeout_s: float = 10.0, isolate: bool | None = None) -> Verdict:
    """Run Python source to its end. A program that ends early, be it with exit code 0, has not passed.

    `isolate` None: cut off from the network where this machine can do it.
    """
    # only what reaches the last line can say this word; leaving early with exit code 0 cannot
    word = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="tramontane-code-") as folder:
        path = Path(folder) / "program.py"
        path.write_text(f"{program}\n\nimport sys as _sys\n_sys.__stdout__.write('\\n{word}')\n", "utf-8", "replace")
        mode = "isolated" if (can_isolate() if isolate is None else isolate) else "open"
        command = [sys.executable, "-I", "-S", "-B", str(CHILD), mode, str(int(timeout_s) + 1), str(path)]
        with open(os.devnull, "rb") as nothing, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            process = subprocess.Popen(
                command,
                stdin=nothing,
                stdout=out,
                stderr=err,
                cwd=folder,
                env={"PATH": "/usr/bin:/bin", "HOME": folder, "LC_ALL": "C.UTF-8"},
                start_new_session=True,
            )
            try:
                code = process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                return Verdict(False, f"took more than {timeout_s:g} s")
            finally:
                _kill_group(process)
            if code == 0 and _tail(out).endswith(word):
                return Verdict(True, "passed")
            lines = _tail(err).strip().splitlines()
            return Verdict(False, lines[-1] if lines else f"ended early (exit code {code})")


def _tail(file: IO[bytes]) -> str:
    """The end of what was written; the limit on file sizes bounds the whole."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - MAX_OUTPUT_BYTES))
    return file.read().decode("utf-8", "replace")


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@cache
def can_isolate() -> bool:
    """Whether this machine lets an ordinary process make namespaces of its own."""
    return sys.platform == "linux" and run_program("", timeout_s=10.0, isolate=True).passed


def require_isolation() -> None:
    """Raises CapacityError where code could not be cut off from the network."""
    if not can_isolate():
        raise CapacityError(
            "code written by the model would run with access to the network, since this machine lets no ordinary user "
            "make namespaces; allow user namespaces, run in a container without network, or accept it with "
            "--unisolated-code"
        )

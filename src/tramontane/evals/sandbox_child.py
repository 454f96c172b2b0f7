"""The child process of `sandbox.py`: gives up what a program does not need, then becomes the program.

Arguments: `isolated` or `open`, seconds of processor time, path of the program. Imports nothing of ours, since it
runs without site packages.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys

MEMORY_BYTES = 1 << 30
FILE_BYTES = 1 << 24
CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = (
    *(0x00020000, 0x08000000, 0x10000000, 0x20000000, 0x40000000),
)
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38


def limit(cpu_s: int) -> None:
    for kind, most in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_FSIZE, FILE_BYTES),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (most, most))


def isolate() -> None:
    """New namespaces; the process that goes on is the first of its own, so the end of it ends all it started.

    Exits where that is not possible.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC) != 0:
        sys.exit(f"no namespaces: {os.strerror(ctypes.get_errno())}")
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        sys.exit(os.waitstatus_to_exitcode(status) & 0xFF)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def main() -> None:
    mode, cpu_s, path = sys.argv[1:]
    limit(int(cpu_s))
    if mode == "isolated":
        isolate()
    os.execv(sys.executable, [sys.executable, "-I", "-B", path])


if __name__ == "__main__":
    main()

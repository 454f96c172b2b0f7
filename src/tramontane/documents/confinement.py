"""What a parser's process gives up before it reads a byte of a file that may be hostile."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import struct
import sys

from tramontane.documents.sandbox import Limits

NICENESS = 5  # answers go before parsing
MAX_OPEN_FILES = 64
LIBRARY_BYTES = 512 << 20  # of address space: libraries map far more than they use

PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 22, 38
SECCOMP_MODE_FILTER = 2

# System calls by machine (Linux, arch/*/entry/syscalls/*.tbl), after the machine's AUDIT_ARCH.
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# fork vfork clone clone3 execve execveat ptrace kill tkill process_vm_readv process_vm_writev pidfd_send_signal
# pidfd_getfd
PROCESSES = {
    "x86_64": (57, 58, 56, 435, 59, 322, 101, 62, 200, 310, 311, 424, 438),
    "aarch64": (220, 435, 221, 281, 117, 129, 130, 270, 271, 424, 438),
}
# io_uring_setup, which does by other ways what is refused here; bpf perf_event_open unshare setns userfaultfd
KERNEL = {
    "x86_64": (425, 321, 298, 272, 308, 323),
    "aarch64": (425, 280, 241, 97, 268, 282),
}
NETWORK = {"x86_64": (41, 53), "aarch64": (198, 199)}  # socket socketpair


def confine(limits: Limits, *, parent: int, network: bool) -> None:
    """Kernel limits of this process: memory, processor time, open files, none written, no other process, and no network
    unless `network`. It ends with `parent`. What a system lacks of these is left out; POSIX has the limits at least."""
    if sys.platform.startswith("linux"):
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it had ended before
            os._exit(1)
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "wb", buffering=0) as file:
            file.write(b"1000")  # where memory runs out, this goes before the server
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    limit_resources(limits)
    machine = os.uname().machine if hasattr(os, "uname") else ""
    if sys.platform.startswith("linux") and machine in AUDIT_ARCH and sys.maxsize > 2**32:
        refused = PROCESSES[machine] + KERNEL[machine] + (() if network else NETWORK[machine])
        refuse_system_calls(AUDIT_ARCH[machine], refused)


def limit_resources(limits: Limits) -> None:
    try:
        import resource
    except ImportError:  # not on Windows, where the parent's time limit remains
        return
    wanted = {
        resource.RLIMIT_AS: limits.memory_bytes + LIBRARY_BYTES,
        resource.RLIMIT_DATA: limits.memory_bytes,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: MAX_OPEN_FILES,
        resource.RLIMIT_NPROC: 0,
    }
    for kind, limit in wanted.items():
        hard = resource.getrlimit(kind)[1]
        bound = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        with contextlib.suppress(ValueError, OSError):  # macOS knows some by name only
            resource.setrlimit(kind, (bound, bound))
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    cpu_s = limits.cpu_s if hard == resource.RLIM_INFINITY else min(limits.cpu_s, hard)
    # first SIGXCPU, which tells the parent which limit it was; SIGKILL a second later
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1 if hard == resource.RLIM_INFINITY else hard))


def refuse_system_calls(arch: int, numbers: tuple[int, ...]) -> None:
    """A seccomp filter (Linux, Documentation/userspace-api/seccomp_filter.rst): these calls fail with EPERM, another
    machine's calls end the process. A kernel without it goes on without it."""
    load, jump_if_equal, jump_if_above, give = 0x20, 0x15, 0x25, 0x06
    allow, fail, kill = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x80000000
    program = [(load, 0, 0, 4), (jump_if_equal, 1, 0, arch), (give, 0, 0, kill), (load, 0, 0, 0)]
    program.append((jump_if_above, len(numbers) + 1, 0, 0x3FFFFFFF))  # x86's x32 calls, under other numbers
    program += [(jump_if_equal, len(numbers) - place, 0, number) for place, number in enumerate(numbers)]
    program += [(give, 0, 0, allow), (give, 0, 0, fail)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
    head = ctypes.create_string_buffer(struct.pack("HP", len(program), ctypes.addressof(code)))
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    _prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(head))


def _prctl(option: int, *values: int) -> None:
    padded = (*values, 0, 0, 0, 0)[:4]
    ctypes.CDLL(None).prctl(option, *(ctypes.c_ulong(value) for value in padded))

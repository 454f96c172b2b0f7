"""Kernels under AddressSanitizer, UndefinedBehaviorSanitizer and, for the thread pool, ThreadSanitizer:
`make sanitize`.

What one of them reports ends its process, and so the test. CPython keeps memory until its process ends: leaks are
looked for in programs without it."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.native.building import ROOT, build, build_extension

pytestmark = [
    pytest.mark.sanitize,
    pytest.mark.skipif(
        sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"), reason="sanitizers of GCC on Linux"
    ),
]
MEMORY = ("-DTRAMONTANE_SANITIZE=address,undefined", "-DKERNELS_OPTIMISATION=-O1")
THREADS = ("-DTRAMONTANE_SANITIZE=thread", "-DKERNELS_OPTIMISATION=-O1")
FOUND = 86  # no exit code of Python's or pytest's
MEMORY_OPTIONS = {
    "ASAN_OPTIONS": f"exitcode={FOUND}:detect_stack_use_after_return=1:strict_init_order=1:detect_leaks=1",
    "UBSAN_OPTIONS": f"exitcode={FOUND}:print_stacktrace=1",
    "LSAN_OPTIONS": f"exitcode={FOUND}",
}
THREAD_OPTIONS = {"TSAN_OPTIONS": f"exitcode={FOUND}:halt_on_error=1:second_deadlock_stack=1:die_after_fork=0"}
CASES = ("tests/ops", "tests/llm/test_hostile_weights.py")


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command], cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


def library(name: str) -> str:
    """Where the compiler keeps a sanitizer's library, which Python has to load before anything else."""
    found = run(os.environ.get("CXX", "c++"), f"-print-file-name={name}").stdout.strip()
    assert Path(found).is_absolute(), f"the compiler has no {name}"
    return str(Path(found).resolve())


def run_python(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Python in which AddressSanitizer watches every allocation, its own small ones too."""
    options = MEMORY_OPTIONS | {"ASAN_OPTIONS": MEMORY_OPTIONS["ASAN_OPTIONS"].replace("leaks=1", "leaks=0")}
    preload = f"{library('libasan.so')} {library('libubsan.so')}"
    return run(sys.executable, *arguments, LD_PRELOAD=preload, PYTHONMALLOC="malloc", **options, **environment)


def report(done: subprocess.CompletedProcess[str]) -> str:
    return done.stdout[-6000:] + done.stderr[-6000:]


def test_operations_and_hostile_weights_touch_nothing_that_is_not_theirs() -> None:
    extension = build_extension("sanitize-extension", *MEMORY)
    # without --capture=sys a report would end with its process in what pytest has captured
    plugins = ("--capture=sys", "-p", "tests.native.sanitized", "-p", "no:cacheprovider", "-p", "no:randomly")
    done = run_python(
        "-m", "pytest", "-q", "-x", *plugins, *CASES, SANITIZED_CPU=str(extension), OMP_NUM_THREADS="1",
    )  # fmt: skip
    assert done.returncode == 0, report(done)
    assert f"sanitized {extension}" in done.stdout
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed
    assert int(passed[1]) > 500, done.stdout


@pytest.mark.parametrize("options", [MEMORY, THREADS], ids=["memory", "threads"])
def test_the_thread_pool_under_concurrent_callers(options: tuple[str, ...]) -> None:
    program = build("pool_check", "sanitize-memory" if options == MEMORY else "sanitize-threads", *options)
    done = run(program, **MEMORY_OPTIONS, **THREAD_OPTIONS)
    assert done.returncode == 0, report(done)
    assert re.search(r"regions=8\d\d\d wrong=0", done.stdout)


def test_kernels_share_nothing_between_threads_unasked() -> None:
    done = run(build("kernel_check", "sanitize-threads", *THREADS), **THREAD_OPTIONS, KERNEL_CHECK_THREADS="3")
    assert done.returncode == 0, report(done)
    assert "failed=0" in done.stdout


MEMORY_FAULTS = ("heap-buffer-overflow", "heap-use-after-free", "signed integer overflow", "misaligned address")


@pytest.mark.parametrize("fault", [*MEMORY_FAULTS, "detected memory leaks"])
def test_a_fault_of_memory_ends_the_process(fault: str) -> None:
    program = build("faulty", "sanitize-memory", *MEMORY)
    assert run(program, "none", **MEMORY_OPTIONS).returncode == 0
    done = run(program, fault, **MEMORY_OPTIONS)
    assert done.returncode == FOUND, report(done)
    assert fault in done.stderr


def test_a_data_race_ends_the_process() -> None:
    program = build("faulty", "sanitize-threads", *THREADS)
    assert run(program, "none", **THREAD_OPTIONS).returncode == 0
    done = run(program, "data race", **THREAD_OPTIONS)
    assert done.returncode == FOUND, report(done)
    assert "data race" in done.stderr


@pytest.mark.parametrize("fault", MEMORY_FAULTS)
def test_a_fault_in_a_library_ends_python(fault: str) -> None:
    path = build("faulty_library", "sanitize-memory", *MEMORY)
    call = "import ctypes, sys; ctypes.CDLL(sys.argv[1]).fault(sys.argv[2].encode())"
    assert run_python("-c", call, path, "none").returncode == 0
    done = run_python("-c", call, path, fault)
    assert done.returncode == FOUND, report(done)
    assert fault in done.stderr

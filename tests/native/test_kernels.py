"""Every instruction set's kernels against exact sums, in a program of their own: those of this processor, and NEON
under an emulator, from the sources and with the flags of csrc/kernels.cmake."""

from __future__ import annotations

import platform
import re
import subprocess
import sys

import pytest

from tests.native.building import build, tool
from tests.system import require
from tramontane.ops import _cpu

AARCH64 = (
    "-DKERNELS_OPTIMISATION=-O2",  # a third of the time -O3 takes to compile
    "-DCMAKE_SYSTEM_NAME=Linux",
    "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
    "-DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++",
    "-DCMAKE_EXE_LINKER_FLAGS=-static",
)


def _run(*command: str) -> dict[str, str]:
    """Digests of what each instruction set computed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.findall(r"^(\w+) comparisons=(\d+) failed=0 digest=(\w+)$", done.stdout, re.MULTILINE)
    assert all(int(count) > 50_000 for _, count, _ in found)
    return {instruction_set: digest for instruction_set, _, digest in found}


@pytest.fixture(scope="module")
def native_digests() -> dict[str, str]:
    # The optimised kernels of this processor are what the other tests run.
    return _run(str(build("kernel_check", "kernel_check-native", "-DKERNELS_OPTIMISATION=-O0")))


def test_kernels_of_this_processor(native_digests: dict[str, str]) -> None:
    assert list(native_digests) == _cpu.instruction_sets()


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() == "aarch64", reason="emulated on other Linux machines"
)
def test_neon_kernels_under_emulation(native_digests: dict[str, str]) -> None:
    require("g++-aarch64-linux-gnu")
    require("qemu-user")
    emulator = tool("qemu-aarch64")
    program = str(build("kernel_check", "kernel_check-aarch64", *AARCH64))
    digests = _run(emulator, program)
    assert list(digests) == ["scalar", "neon", "neon_dotprod"]
    # the same operations in the same order as AVX2: the same bits, and the plain kernels everywhere
    assert digests["neon"] == digests["neon_dotprod"] == native_digests.get("avx2", digests["neon"])
    assert digests["scalar"] == native_digests["scalar"]
    # a processor without the dot product instruction is known as such, and needs none
    older = [emulator, "-cpu", "cortex-a53", program]
    assert _run(*older, "neon")["neon"] == digests["neon"]
    refused = subprocess.run([*older, "neon_dotprod"], capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stdout) == (
        2,
        "instruction set=neon_dotprod is not available here; use one of scalar, neon\n",
    )

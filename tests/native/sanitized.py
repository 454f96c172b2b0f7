"""A plugin of pytest (`-p tests.native.sanitized`): `tramontane.ops._cpu` is the library of $SANITIZED_CPU, whatever is
installed, and the run fails at once where that library or its AddressSanitizer is not the one in memory."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

NAME = "tramontane.ops._cpu"


class _Sanitized(MetaPathFinder):
    """Before every other finder, the hook of an editable installation included."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return spec_from_file_location(NAME, os.environ["SANITIZED_CPU"]) if fullname == NAME else None


def _libraries() -> set[str]:
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {line.split()[-1] for line in lines if ".so" in line.split()[-1]}


# When the plugin is imported, which is before any conftest.py is: those import what they test.
if "SANITIZED_CPU" in os.environ:
    sys.meta_path.insert(0, _Sanitized())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    ours = sorted(path for path in _libraries() if Path(path).name.startswith("_cpu."))
    sanitizer = any(Path(path).name.startswith("libasan.so") for path in _libraries())
    if ours != [os.environ["SANITIZED_CPU"]] or not sanitizer:
        raise pytest.UsageError(f"not under AddressSanitizer: {ours}, libasan loaded: {sanitizer}")
    terminalreporter.write_line(f"sanitized {ours[0]}")

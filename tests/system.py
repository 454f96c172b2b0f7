"""Programs that must come from the system: a test that lacks one is skipped, but not where `CI` is set."""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@functools.cache
def missing_packages() -> tuple[str, ...]:
    """Debian's names of what only tests need and this machine lacks, by the one list of it."""
    done = subprocess.run([ROOT / ".ci" / "missing", "test"], capture_output=True, text=True, check=True)
    return tuple(done.stdout.split())


def require(package: str) -> None:
    """End the test here, unless the programs of the Debian package are there."""
    if package in missing_packages():
        reason = f"{package} is missing: sudo apt-get install --no-install-recommends {package}"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)

"""Folders that outlive a test because many share what is in them, and are gone when the process ends."""

from __future__ import annotations

import atexit
import tempfile
from pathlib import Path


def temporary_folder() -> Path:
    folder = tempfile.TemporaryDirectory(prefix="tramontane-test-", ignore_cleanup_errors=True)
    atexit.register(folder.cleanup)
    return Path(folder.name)

"""`python -O` strips assert statements; no refusal may rest on one (CVE-2026-41523)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
HOSTILE = ["test_safetensors_file.py", "test_gguf_file.py", "test_torch_pickle.py", "test_open_tensors.py"]
SLOW = "not hundred and not live and not every_byte"


@pytest.mark.parametrize("flag", ["-O", "-OO"])
def test_hostile_files_are_refused_without_asserts(flag: str) -> None:
    """pytest rewrites its own asserts into statements, so the same tests judge; docstrings go with -OO."""
    selection = SLOW if flag == "-O" else SLOW + " and not gadgets and not invented and not mutated"
    command = [sys.executable, flag, "-W", "ignore", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    command += ["-W", "ignore::pytest.PytestConfigWarning", "-k", selection]
    done = subprocess.run(
        [*command, *(str(HERE / name) for name in HOSTILE)],
        cwd=HERE.parent.parent,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert int(done.stdout.split(" passed")[0].split()[-1]) > 150

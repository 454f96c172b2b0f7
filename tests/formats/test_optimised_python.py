"""`python -O` strips assert statements; no refusal may rest on one (CVE-2026-41523)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
HOSTILE = ["test_safetensors_file.py", "test_gguf_file.py", "test_torch_pickle.py", "test_open_tensors.py"]
QUICK = "not hundred and not live and not every_byte"


def test_hostile_files_are_refused_without_asserts() -> None:
    """pytest rewrites its own asserts into statements, so the same tests judge."""
    command = [sys.executable, "-O", "-W", "ignore", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    command += ["-W", "ignore::pytest.PytestConfigWarning", "-k", QUICK]
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

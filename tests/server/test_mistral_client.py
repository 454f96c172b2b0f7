"""Mistral's own client, the newest and the last that had fine-tuning, makes its way through the server unchanged."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server import mistral_journeys
from tests.server.live import LiveServer

ROOT = Path(__file__).resolve().parents[2]
OLD_CLIENT = ROOT / "build" / "clients" / "mistralai-2.5.1"
EXPECTED = 2 * [journey.__name__ for journey in mistral_journeys.JOURNEYS]


@pytest.mark.parametrize("path", [None, OLD_CLIENT], ids=["newest", "2.5.1"])
def test_every_journey(server: LiveServer, path: Path | None) -> None:
    assert path is None or path.is_dir(), "run `make test`, which installs the client there"
    environment = {**os.environ, "PYTHONPATH": "" if path is None else str(path)}
    command = [sys.executable, "-m", mistral_journeys.__name__, server.url]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == EXPECTED

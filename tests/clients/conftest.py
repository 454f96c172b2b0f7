"""A live server with the default model, and other people's clients in environments of their own (`make clients`)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.server.live import LiveServer, start_server

ROOT = Path(__file__).resolve().parents[2]
HERE, INSTALLED = Path(__file__).resolve().parent, ROOT / "build" / "clients"
NODE, PYTHON = INSTALLED / "node", INSTALLED / "python" / "bin" / "python"
JOURNEY_S = 600.0  # on a busy machine; each takes seconds on a quiet one

Journey = Callable[[str], Any]
"""Runs a journey by the name of its file; what it printed as JSON on its last line."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.clients)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    live = start_server(tmp_path_factory.mktemp("server"), ["default"])
    yield live
    live.stop()


@pytest.fixture(scope="session")
def node(server: LiveServer) -> Journey:
    """Of the JavaScript clients. A script finds its packages beside itself, so it is copied to where they are."""
    assert (NODE / "node_modules").is_dir(), "the clients are not installed; run `make clients`"
    for script in (HERE / "node").glob("*.mjs"):
        shutil.copy(script, NODE)
    return lambda name: run([shutil.which("node") or "node", str(NODE / f"{name}.mjs"), server.url])


@pytest.fixture(scope="session")
def python(server: LiveServer) -> Journey:
    assert PYTHON.exists(), "the clients are not installed; run `make clients`"
    return lambda name: run([str(PYTHON), str(HERE / "python" / f"{name}_journey.py"), server.url])


def run(command: list[str]) -> Any:
    """The JSON on the last line that `command` prints."""
    return json.loads(printed(command).strip().splitlines()[-1])


def printed(command: list[str], *, cwd: Path | None = None, **environment: str) -> str:
    """What `command` prints, which must end well; of our environment it sees nothing that could change what it does."""
    surroundings = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    done = subprocess.run(
        command,
        cwd=cwd,
        env=surroundings | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=JOURNEY_S,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout

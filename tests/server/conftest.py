"""One live server per session with three tiny models of random weights, what tests ask of it, and the two databases on
which everything about rows is tested."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient

from tests.server.in_process import serving
from tests.server.live import LiveServer, start_server
from tests.server.postgres import running_postgres
from tests.server.store.databases import new_postgres
from tests.tiny_checkpoint import write_tiny_checkpoint
from tramontane.server.store.database import Database, open_database


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By name: `chat` (version 7), `thinker` (version 13, which reasons), `coder` (version 3)."""
    folder = tmp_path_factory.mktemp("served")
    kinds = {"chat": "v7-small", "thinker": "v13-small", "coder": "v3-small"}
    return {
        name: write_tiny_checkpoint(folder / name, vocabulary=vocabulary, max_seq_len=2048)
        for name, vocabulary in kinds.items()
    }


@pytest.fixture(scope="session")
def server(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    live = start_server(tmp_path_factory.mktemp("home"), [*checkpoints.values(), "--fine-tuning-nice", 0])
    yield live
    assert live.stop() == 0, live.log.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def http(server: LiveServer) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


@pytest.fixture(scope="module")
def app_client(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """The app in this process; faster than the live server where nothing of the network is at stake."""
    with serving(checkpoints, tmp_path_factory.mktemp("state")) as client:
        yield client


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    with running_postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/state.db"
    return new_postgres(request.getfixturevalue("postgres"))


@pytest.fixture
def database(address: str) -> Iterator[Database]:
    opened = open_database(address)
    yield opened
    opened.close()

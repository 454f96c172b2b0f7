"""The app inside the test's own process, over tiny models."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from tramontane.server.app import create_app
from tramontane.server.load import load_registry
from tramontane.server.settings import ServerSettings

HELLO = [{"role": "user", "content": "What is the tramontane?"}]
MISTRAL = {"user-agent": "mistral-client-python/3.7.0"}


@contextlib.contextmanager
def serving(checkpoints: Mapping[str, Path], home: Path, **settings: Any) -> Iterator[TestClient]:
    """A client on this machine; the app is at `client.app`."""
    names = [f"{name}={path}" for name, path in checkpoints.items()]
    chosen = ServerSettings(models=names, state_dir=home, **settings)
    registry = load_registry(chosen)
    try:
        with TestClient(
            create_app(chosen, registry),
            base_url="http://localhost",
            client=("127.0.0.1", 50000),
            raise_server_exceptions=False,
        ) as client:
            yield client
    finally:
        for model in registry:
            model.llm.shutdown()

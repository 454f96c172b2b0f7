"""While an engine stands still its streams are not silent, `/health` is red, and all goes on where it stood."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import httpx
import pytest

from tests.server.live import start_server
from tests.server.silent_streams import bodies, listen

PATIENCE_S = 60.0


def test_streams_of_every_kind_are_kept_alive_and_health_is_red_while_the_engine_stands_still(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = tmp_path / "hang"
    order.touch()
    monkeypatch.setenv("HANGS_WHILE", str(order))
    monkeypatch.setenv("KEEP_ALIVE_S", "0.2")
    options = [f"chat={checkpoints['chat']}", "--stall-s", 0.5, "--max-sequences", 1]
    live = start_server(tmp_path / "home", options, module="tests.server.hanging_server")
    statuses: list[int] = []
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(0.1):
            statuses.append(httpx.get(f"{live.url}/health", timeout=PATIENCE_S).status_code)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        silences = asyncio.run(listen(live.url, "chat", 8.0, order.unlink))
        assert len(silences) == len(bodies("chat"))
        for name, silence in silences.items():
            assert silence.status == 200, name
            assert silence.num_comments >= 3, name
            assert silence.is_whole, name
        until = time.monotonic() + PATIENCE_S
        while statuses[-1] != 200:
            assert time.monotonic() < until
            time.sleep(0.1)
    finally:
        is_over.set()
        watching.join()
        order.unlink(missing_ok=True)
        assert live.stop() == 0
    assert 503 in statuses

"""A server that stands still says where."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from tests.server.in_process import serving
from tramontane.server.watchdog import Watchdog


def stand_still_in_the_loop(seconds: float) -> None:
    time.sleep(seconds)


def test_a_blocked_loop_is_told_once_with_where_it_stands(caplog: pytest.LogCaptureFixture) -> None:
    async def block(file: Any) -> None:
        watchdog = Watchdog(asyncio.get_running_loop(), lambda: iter(()), stall_s=0.5, file=file)
        await asyncio.sleep(0.1)
        stand_still_in_the_loop(4.0)
        watchdog.close()

    with tempfile.TemporaryFile("w+") as file:
        asyncio.run(block(file))
        file.seek(0)
        assert file.read().count("in stand_still_in_the_loop") == 1
    assert "the event loop" in caplog.text


def test_an_engine_that_does_not_move_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async def wait(file: Any) -> None:
        watchdog = Watchdog(asyncio.get_running_loop(), lambda: iter(["default"]), stall_s=0.1, file=file)
        while not caplog.records:
            await asyncio.sleep(0.01)
        watchdog.close()

    with tempfile.TemporaryFile("w+") as file:
        asyncio.run(wait(file))
    assert "the engine of default" in caplog.text


def test_health_is_red_while_an_engine_hangs_though_no_answer_has_begun(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    with serving({"chat": checkpoints["chat"]}, tmp_path, stall_s=0.5) as client:
        app: Any = client.app
        engine = app.state.services.registry.resolve("chat", "local").llm.engine
        hanging = engine._submit(lambda: time.sleep(5.0))
        waiting = engine._submit(lambda: None)  # as a request that is to be queued
        statuses = set()
        while not hanging.done():
            statuses.add(client.get("/health").status_code)
            time.sleep(0.05)
        assert 503 in statuses
        waiting.result()
        while client.get("/health").status_code != 200:
            time.sleep(0.05)

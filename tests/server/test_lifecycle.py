"""Beginning and end of a server: ports, signals, and an engine that dies."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from mistralai.client import Mistral
from openai._constants import DEFAULT_CONNECTION_LIMITS

from tests.server.live import start_server
from tests.server.test_streams import LONG
from tramontane.cli.main import run
from tramontane.server.serve import KEEP_ALIVE_S

PATIENCE_S = 120  # machines that run tests may be slow
OPTIONS: dict[str, Any] = {"model": "chat", "messages": LONG["messages"], "max_tokens": 1500, "temperature": 0.0}


def read_stream(url: str, body: dict[str, Any], begun: threading.Event, lines: list[str]) -> None:
    with (
        httpx.Client(base_url=url, timeout=60) as client,
        client.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as answer,
    ):
        for line in answer.iter_lines():
            lines.append(line)
            if line.startswith("data: {") and len(lines) > 4:
                begun.set()


def test_aliases_of_a_file_are_served_and_sigterm_lets_running_answers_end(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    aliases = tmp_path / "aliases.toml"
    aliases.write_text('gpt = "my-chat"\nmistral-embed = "my-chat"\n', encoding="utf-8")
    live = start_server(tmp_path, [f"my-chat={checkpoints['chat']}", checkpoints["coder"], "--aliases", aliases])
    cards = {card["id"]: card["alias_of"] for card in httpx.get(f"{live.url}/v1/models").json()["data"]}
    assert (cards["gpt"], cards["mistral-embed"], cards["my-chat"]) == ("my-chat", "my-chat", None)
    assert cards["coder"] is None
    begun, lines = threading.Event(), list[str]()
    reader = threading.Thread(
        target=read_stream, args=(live.url, {**LONG, "model": "gpt", "max_tokens": 700}, begun, lines)
    )
    reader.start()
    assert begun.wait(PATIENCE_S)
    assert live.stop() == 0
    reader.join(PATIENCE_S)
    assert "data: [DONE]" in lines
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert chunks[-1]["usage"]["completion_tokens"] == 700
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{live.url}/health")


def read_as_openai(url: str, begun: threading.Event) -> str:
    """The error a streaming client of OpenAI's raises."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        stream = client.chat.completions.create(**OPTIONS, stream=True)
        next(stream)
        begun.set()
        with pytest.raises(openai.APIError) as raised:
            list(stream)
    return raised.value.message


def read_as_mistral(url: str, begun: threading.Event) -> Any:
    """The last chunk a streaming client of Mistral's gets."""
    with Mistral(api_key="none", server_url=url) as client:
        last = None
        for event in client.chat.stream(**OPTIONS):
            begun.set()
            last = event.data
    return last


def test_a_dead_engine_ends_streams_with_errors_and_the_server_with_a_code_of_its_own(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = tmp_path / "die"
    monkeypatch.setenv("DIES_WHEN", str(order))
    live = start_server(tmp_path, [checkpoints["chat"]], module="tests.server.failing_server")
    lines: list[str] = []
    begun = [threading.Event() for _ in range(3)]
    with live.process, ThreadPoolExecutor() as pool:
        ours = pool.submit(read_as_openai, live.url, begun[0])
        theirs = pool.submit(read_as_mistral, live.url, begun[1])
        raw = pool.submit(read_stream, live.url, LONG, begun[2], lines)
        assert all(event.wait(PATIENCE_S) for event in begun)
        order.touch()
        assert ours.result(PATIENCE_S).startswith("the model has stopped")
        assert theirs.result(PATIENCE_S).choices[0].finish_reason == "error"
        raw.result(PATIENCE_S)
        assert live.process.wait(PATIENCE_S) == 3
    assert lines[-2] == "data: [DONE]"
    last = json.loads(lines[-4].removeprefix("data: "))
    assert last["choices"][0]["finish_reason"] == "error"
    assert last["error"]["type"] == "server_error"
    assert "MemoryError" not in last["error"]["message"]
    log = live.log.read_text(encoding="utf-8")
    assert "an engine has died" in log
    assert "MemoryError" in log


def test_what_cannot_be_served_is_one_line(
    checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refusal(*arguments: object) -> str:
        assert run(["serve", str(checkpoints["chat"]), "--state-dir", str(tmp_path), *map(str, arguments)]) == 2
        return capsys.readouterr().err

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refusal("--port", port)
        assert said.startswith(
            f"error: cannot listen on 127.0.0.1:{port}: Address already in use; choose another --port"
        )
    aliases = tmp_path / "aliases.toml"
    aliases.write_text('gpt = "none"\n', encoding="utf-8")
    assert "gpt = 'none' names no served model" in refusal("--port", 0, "--aliases", aliases)
    state = tmp_path / "state" / "state.db"
    state.parent.mkdir()
    state.write_bytes(b"wind" * 5000)
    told = refusal("--port", 0, "--state-dir", state.parent)
    assert told.startswith(f"error: {state} cannot be used: file is not a database. ")
    assert told.count("\n") == 1
    assert state.read_bytes() == b"wind" * 5000


def test_idle_connections_are_kept_for_longer_than_the_clients_keep_them() -> None:
    clients = (httpx.Limits().keepalive_expiry, DEFAULT_CONNECTION_LIMITS.keepalive_expiry)
    assert all(seconds is not None and seconds < KEEP_ALIVE_S / 2 for seconds in clients)


COUNT_WHAT_IS_LOOKED_AT = """
import gc, os, signal, sys
from tramontane.server.serve import serve
from tramontane.server.settings import ServerSettings

def ready(url):
    print(len(gc.get_objects()), gc.get_freeze_count(), flush=True)
    os.kill(os.getpid(), signal.SIGTERM)

sys.exit(serve(ServerSettings(models=[sys.argv[1]], port=0), on_ready=ready))
"""


def test_the_garbage_collector_looks_no_more_at_what_stays(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """It would hold everybody for 0.2 s whenever a large body sets it off."""
    command = [sys.executable, "-c", COUNT_WHAT_IS_LOOKED_AT, f"chat={checkpoints['chat']}"]
    environment = {**os.environ, "TRAMONTANE_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    shown = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    seen, frozen = map(int, shown.stdout.split())
    assert seen * 10 < frozen

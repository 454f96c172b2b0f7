"""Clients that leave before their request is whole, at any point: 499 in the numbers, and no trace in the log."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.live import LiveServer, start_server

PATIENCE_S = 60.0
JSON = b"Host: localhost\r\nContent-Type: application/json\r\n"
FORM = b"Host: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
PART = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + b"x" * 100_000
CREATES = ("/v1/files", "/v1/batch/jobs", "/v1/batches", "/v1/fine_tuning/jobs", "/api/documents/text")
ENDPOINTS = ("/v1/chat/completions", "/v1/embeddings", "/v1/responses", "/v1/moderations", "/api/documents/summary")


@pytest.fixture(scope="module")
def left(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    live = start_server(tmp_path_factory.mktemp("left"), [checkpoints["chat"]])
    yield live
    assert live.stop() == 0


def leave(server: LiveServer, data: bytes, *, resets: bool, pause_s: float) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as connection:
        if resets:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with contextlib.suppress(OSError):
            connection.sendall(data)
        time.sleep(pause_s)


def requests() -> Iterator[tuple[str, bytes]]:
    for path in (*CREATES, *ENDPOINTS):
        is_form = path in ("/v1/files", "/api/documents/text")
        line = b"POST %s HTTP/1.1\r\n" % path.encode()
        begun = PART if is_form else b'{"model": "chat", "messages": ['
        for length in (b"Content-Length: 200000\r\n\r\n" + begun, b"Transfer-Encoding: chunked\r\n\r\n2\r\n{ \r\n"):
            yield path, line + (FORM if is_form else JSON) + length


@pytest.mark.parametrize("resets", [False, True])
def test_a_client_that_leaves_within_its_body_leaves_no_trace(left: LiveServer, resets: bool) -> None:
    with left.client() as http:
        before = {path: num_gone(http.get("/metrics").text, path) for path in ENDPOINTS}
        for _, data in requests():
            for pause_s in (0, 0.1):
                leave(left, data, resets=resets, pause_s=pause_s)
        until = time.monotonic() + PATIENCE_S
        while True:
            text = http.get("/metrics").text
            gone = {path: num_gone(text, path) - before[path] for path in ENDPOINTS}
            if all(2 <= count <= 4 for count in gone.values()):  # a reset at once may come before the request is seen
                break
            assert time.monotonic() < until, gone
            time.sleep(0.1)
    assert not re.search(r'status="5\d\d"', text)
    assert left.log.read_text(encoding="utf-8").count("\n") <= 5, left.log.read_text(encoding="utf-8")
    assert not list((left.log.parent / "server" / "incoming").iterdir())


def test_a_client_that_leaves_anywhere_else_leaves_no_trace(left: LiveServer) -> None:
    body = b'{"model": "chat", "messages": [{"role": "user", "content": "x"}], "max_tokens": 300, "stream": %s}'
    head = b"POST /v1/chat/completions HTTP/1.1\r\n" + JSON
    whole = [
        head + b"Content-Length: %d\r\n\r\n" % len(body % stream) + body % stream for stream in (b"true", b"false")
    ]
    for data in (b"", b"G", b"GET / HTTP/1.1\r\nHo", head, *whole, whole[0] + whole[1], b"\x16\x03\x01\x02\x00\x01"):
        for resets in (False, True):
            for pause_s in (0, 0.05):
                leave(left, data, resets=resets, pause_s=pause_s)
    with left.client() as http:
        assert http.get("/health").status_code == 200
        assert not re.search(r'status="5\d\d"', http.get("/metrics").text)
    assert "Traceback" not in left.log.read_text(encoding="utf-8")


def test_an_upgrade_is_not_offered_and_not_remarked_upon(left: LiveServer) -> None:
    host, port = left.url.removeprefix("http://").split(":")
    upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\n"
    request = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
    before = left.log.read_text(encoding="utf-8")
    with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as connection:
        # the request behind is answered too
        connection.sendall(request + upgrade + b"\r\n" + request + b"Connection: close\r\n\r\n")
        received = b""
        while data := connection.recv(65536):
            received += data
    assert received.count(b"HTTP/1.1 200") == 2
    assert left.log.read_text(encoding="utf-8") == before


def num_gone(text: str, path: str) -> float:
    found = re.findall(rf'^tramontane_requests_total{{endpoint="{path}"[^}}]*status="499"}} (\S+)', text, re.M)
    return sum(map(float, found))

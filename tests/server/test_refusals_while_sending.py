"""A refusal of what is too large reaches clients that go on sending, whatever they are made of."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import requests

from tests.server.live import LiveServer
from tests.system import require

TOO_MUCH = 33 * 2**20
PATHS = ("/v1/chat/completions", "/v1/embeddings")
HEADERS = {"content-type": "application/json"}
SCRIPT = """
const answer = await fetch(process.argv[1], {method: "POST", headers: {"content-type": "application/json"},
                                             body: "x".repeat(Number(process.argv[2]))});
console.log(answer.status, (await answer.json()).code);
"""


@pytest.mark.parametrize("path", PATHS)
def test_python_s_own_client_reads_the_refusal(server: LiveServer, path: str) -> None:
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=60)
    connection.request("POST", path, b"x" * TOO_MUCH, HEADERS)
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())["code"]) == (413, "too_large")


def chunks() -> Iterator[bytes]:
    for _ in range(TOO_MUCH >> 20):
        yield b" " * 2**20


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("is_chunked", [False, True])
def test_httpx_and_requests_read_the_refusal(server: LiveServer, path: str, is_chunked: bool) -> None:
    data = chunks() if is_chunked else b"x" * TOO_MUCH
    assert httpx.post(server.url + path, content=data, headers=HEADERS, timeout=60).status_code == 413
    data = chunks() if is_chunked else b"x" * TOO_MUCH
    assert requests.post(server.url + path, data=data, headers=HEADERS, timeout=60).status_code == 413


def test_curl_reads_the_refusal(server: LiveServer, tmp_path: Path) -> None:
    require("curl")
    body = tmp_path / "body"
    body.write_bytes(b"x" * TOO_MUCH)
    command = ["curl", "-sS", "-w", "%{http_code}", "-H", "content-type: application/json", "--data-binary"]
    for expect in (["-H", "Expect:"], []):
        ran = subprocess.run(
            [*command, f"@{body}", *expect, server.url + PATHS[0]], capture_output=True, text=True, check=False
        )
        assert (ran.returncode, ran.stdout[-3:]) == (0, "413"), ran.stderr


def test_node_reads_the_refusal(server: LiveServer) -> None:
    require("node")
    command = ["node", "--input-type=module", "-e", SCRIPT, server.url + PATHS[0], str(TOO_MUCH)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.stdout.split() == ["413", "too_large"], ran.stderr


def test_what_is_sent_without_end_is_cut(server: LiveServer) -> None:
    address = urlsplit(server.url)
    num_sent = 0
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        connection.sendall(b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        with contextlib.suppress(OSError):
            while num_sent < 2000:
                connection.sendall(b"100000\r\n" + b"x" * 2**20 + b"\r\n")
                num_sent += 1
    assert 1 < num_sent < 200

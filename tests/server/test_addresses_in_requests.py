"""Addresses in requests: none is ever looked up, dialled or opened, whatever it looks like and wherever it stands."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.server.in_process import HELLO

HOSTS = (
    *("127.0.0.1", "localhost", "127.1", "0", "0.0.0.0", "2130706433", "0x7f000001", "0177.0.0.1", "127.0.0.1.nip.io"),
    *("[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[fe80::1%25eth0]", "[fd00::1]", "[64:ff9b::7f00:1]"),
    *("169.254.169.254", "metadata.google.internal", "10.0.0.1", "172.16.0.1", "192.168.0.1", "100.100.100.200"),
    *("user@127.0.0.1", "evil.example@127.0.0.1", "127.0.0.1#@evil.example", "evil.example\\@127.0.0.1"),
    *(
        "evil.example\\.127.0.0.1",
        "ⓛocalhost",
        "１２７.0.0.1",
        "127。0。0。1",
        "localhost.",
        "%6cocalhost",
        "evil.example",
    ),
)
SCHEMES = ("http", "https", "HTTP", "ftp", "gopher", "ws")
PORTS = ("", ":22")
WHOLE = (
    *("file:///etc/passwd", "file://localhost/etc/passwd", "FILE:/etc/passwd", "file:etc/passwd", "/etc/passwd"),
    *("../../etc/passwd", "//127.0.0.1/x", "\\\\127.0.0.1\\x", "http:127.0.0.1", "http:///127.0.0.1/x"),
    *("data:image/png;base64,AAAA", "data:text/html,x", "jar:http://127.0.0.1!/x", "dict://127.0.0.1:11211/stat"),
    *("http://127.0.0.1\t/x", "http://127.0.0.1\r\nHost: x/", " http://127.0.0.1/", "url:http://127.0.0.1/", ""),
    *("blob:http://127.0.0.1/x", "unix:/var/run/docker.sock", "s3://bucket/x", "https://0x7f.1:443/../x?y#z"),
)


def addresses() -> list[str]:
    made = [f"{scheme}://{host}{port}/x" for scheme, host, port in itertools.product(SCHEMES, HOSTS, PORTS)]
    return [*WHOLE, *made]


def chat(chunk: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    messages = [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, chunk]}]
    return "/v1/chat/completions", {"model": "chat", "messages": messages, "max_tokens": 1}


def responses(chunk: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    return "/v1/responses", {"model": "chat", "input": [{"role": "user", "content": [chunk]}], "max_output_tokens": 1}


def schema(address: str) -> tuple[str, dict[str, Any]]:
    described = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": {"$ref": address}}}
    return "/v1/chat/completions", {
        "model": "chat",
        "messages": HELLO,
        "max_tokens": 1,
        "response_format": described,
    }


PLACES: tuple[Callable[[str], tuple[str, dict[str, Any]]], ...] = (
    lambda address: chat({"type": "image_url", "image_url": address}),
    lambda address: chat({"type": "image_url", "image_url": {"url": address, "detail": "low"}}),
    lambda address: chat({"type": "document_url", "document_url": address, "document_name": "x"}),
    lambda address: chat({"type": "input_audio", "input_audio": address}),
    lambda address: chat({"type": "file", "file": {"file_data": address}}),
    lambda address: chat({"type": "video_url", "video_url": {"url": address}}),
    lambda address: responses({"type": "input_image", "image_url": address}),
    lambda address: responses({"type": "input_file", "file_url": address}),
    lambda address: schema(address),
)
OUTWARD = ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request")
TRANSLATOR = "tramontane.server.structured.child"
"""Of schemas, with which the server began; it is started again where one took too long."""
_watched: list[str] | None = None


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _watched is None:
        return
    if event == "subprocess.Popen" and TRANSLATOR in arguments[1]:
        return
    if event in OUTWARD or event in ("subprocess.Popen", "os.system"):
        _watched.append(f"{event} {arguments[1:]}")
    elif event == "open" and "passwd" in str(arguments[0]):
        _watched.append(f"open {arguments[0]}")


sys.addaudithook(_audit)  # hooks cannot be taken back: this one sleeps outside of the fixture


@pytest.fixture
def outward() -> Iterator[list[str]]:
    """What this process has looked up, dialled, opened or started."""
    global _watched
    _watched = []
    yield _watched
    _watched = None


def test_the_watch_sees(outward: list[str]) -> None:
    import socket

    socket.getaddrinfo("127.0.0.1", 1)
    assert len(outward) == 1


def test_no_address_is_followed(app_client: TestClient, outward: list[str]) -> None:
    texts = addresses()
    assert len(texts) > 350
    for address, place in zip(texts, itertools.cycle(PLACES), strict=False):
        path, body = place(address)
        answer = app_client.post(path, json=body)
        assert answer.status_code in (400, 422), (address, body, answer.text)
        assert "root:" not in answer.text
    for address, place in itertools.product(WHOLE[:3], PLACES):
        path, body = place(address)
        assert app_client.post(path, json=body).status_code in (400, 422), (address, body)
    assert outward == []


def test_texts_that_are_addresses_are_text(app_client: TestClient, outward: list[str]) -> None:
    for address in (*WHOLE[:6], "http://169.254.169.254/latest"):
        for path, body in (
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": address}], "max_tokens": 1}),
            ("/v1/embeddings", {"input": address}),
            ("/v1/completions", {"prompt": f"![x]({address})", "max_tokens": 1}),
        ):
            assert app_client.post(path, json={"model": "chat", **body}).status_code == 200
        for name in (address, f"chat/{address}"):
            answer = app_client.post("/v1/embeddings", json={"model": name, "input": "x"})
            assert answer.status_code == 400, answer.text
    assert outward == []

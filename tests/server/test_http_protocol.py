"""What comes before the body: bounded, and refused in one shape."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Iterator

import pytest

from tests.server.live import LiveServer

HEAD = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"


def exchange(server: LiveServer, parts: Iterator[bytes] | list[bytes]) -> tuple[int, bytes]:
    """Status and body of the first answer; stops sending when the server has closed."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        received = b""
        try:
            for part in parts:
                connection.sendall(part)
        except OSError:
            pass  # closed already: the answer is still to be read
        try:
            while data := connection.recv(65536):
                received += data
        except OSError:
            pass
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split()[1]) if head else 0, body


def test_headers_of_common_size_pass(server: LiveServer) -> None:
    status, body = exchange(server, [HEAD + b"X-A: " + b"a" * 20_000 + b"\r\nConnection: close\r\n\r\n"])
    assert status == 200
    assert b'"status":"ok"' in body


@pytest.mark.parametrize(
    "parts",
    [
        [HEAD + b"X-A: " + b"a" * 200_000 + b"\r\n\r\n"],
        [HEAD, *([b"X-A: " + b"a" * 1000 + b"\r\n"] * 500)],
        [HEAD + b"".join(b"X-%d: a\r\n" % number for number in range(1000)) + b"\r\n"],
        [b"GET /" + b"a" * 500_000 + b" HTTP/1.1\r\n\r\n"],
        [HEAD + b"X-A: ", *([b"a" * 65536] * 100)],
    ],
    ids=["one", "many", "numerous", "path", "endless"],
)
def test_headers_without_end_are_cut(server: LiveServer, parts: list[bytes]) -> None:
    status, body = exchange(server, parts)
    if status:  # what was sent after the refusal may have reset the connection before it was read
        assert status == 431
        assert json.loads(body)["raw_status_code"] == 431
    assert exchange(server, [HEAD + b"Connection: close\r\n\r\n"])[0] == 200


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
        HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b" folded: x\r\n\r\n",
        HEAD + b"X A: x\r\n\r\n",
        b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabXX0\r\n\r\n",
    ],
)
def test_what_is_no_http_is_refused_and_the_connection_closed(server: LiveServer, request_bytes: bytes) -> None:
    status, body = exchange(server, [request_bytes])
    assert status == 400, body
    assert json.loads(body)["object"] == "error"


CHUNKED = b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"


def broken_chunks() -> list[bytes]:
    """Bodies in chunks with something wrong in a size, an extension, the end of a line, or the trailer; a reader that
    is lenient where another is strict would take what follows for a second request."""
    draw = random.Random(0)
    sizes = (
        b"g",
        b"0x2",
        b"+2",
        b"-2",
        b" 2",
        b"2 2",
        b"",
        b"\x00",
        b"2\x00",
        b"f" * 17,
        b"1" * 40,
        b"\xb2",
        b"2,",
        b"_2",
    )
    made = [size + b"\r\n{}\r\n0\r\n\r\n" for size in sizes]
    made += [b"2" + end + b"{}\r\n0\r\n\r\n" for end in (b"\n\n", b"\r", b"\r\r\n", b";\x00\r\n", b";a\x01b\r\n")]
    made += [b"2\r\n{}" + end + b"0\r\n\r\n" for end in (b"", b"\r", b"XX", b"\r\r\n", b"}\r\n", b" \r\n", b"\t\r\n")]
    made += [b"2\r\n{}\r\n0\r\n" + end for end in (b"X\r\n\r\n", b": x\r\n\r\n", b"A B: x\r\n\r\n", b"\x00\r\n\r\n")]
    while len(made) < 200:
        whole = bytearray(b"2\r\n{}\r\n0\r\n\r\n")
        whole[draw.choice((0, 5, 6))] = draw.choice(b"\x00\x01\x7f\xffgGxX-+/:;,_'\"<")
        made.append(bytes(whole))
    return made


def test_chunks_that_are_malformed_end_the_connection(server: LiveServer) -> None:
    for chunks in broken_chunks():
        request = CHUNKED + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + SMUGGLED
        status, body = exchange(server, [request])
        assert status == 400, (chunks, status, body)
        assert b"HTTP/1.1" not in body, (chunks, body)  # one answer, and the connection closed


@pytest.mark.parametrize(
    "headers",
    [
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n",
        b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 2, 2\r\n",
        b"Content-Length: +2\r\n",
        b"Content-Length: 0x2\r\n",
        b"Content-Length: 2 2\r\n",
        b"Content-Length : 2\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"Transfer-Encoding:\x0bchunked\r\n",
    ],
)
def test_lengths_that_two_readers_could_read_differently(server: LiveServer, headers: bytes) -> None:
    for body in (b"{}", b"2\r\n{}\r\n0\r\n\r\n", b"0\r\n\r\n"):
        status, answer = exchange(server, [CHUNKED + headers + b"\r\n" + body + SMUGGLED])
        assert status == 400, (headers, body, status, answer)
        assert b"HTTP/1.1" not in answer


def test_a_trailer_is_no_header(server: LiveServer) -> None:
    """Whatever its name: Host does not change who is asked, nor another what was sent."""
    body = b'{"model": "chat", "input": "x"}'
    chunks = b"%x\r\n%s\r\n0\r\n" % (len(body), body)
    trailers = b"Host: elsewhere.example\r\nOrigin: http://elsewhere.example\r\nX-Dialect: nonsense\r\nVia: 1.1 x\r\n"
    head = CHUNKED + b"Connection: close\r\nTransfer-Encoding: chunked\r\n"
    assert exchange(server, [head + b"\r\n" + chunks + trailers + b"\r\n"])[0] == 200
    assert exchange(server, [head + trailers.partition(b"Origin")[0] + b"\r\n" + chunks + b"\r\n"])[0] == 400
    endless = exchange(server, [head + b"\r\n" + chunks, *([b"X-A: " + b"a" * 1000 + b"\r\n"] * 500)])
    assert endless[0] in (0, 200, 431)

"""Addresses inside this machine and its network are never dialled, however they are written (SECURITY: SSRF)."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tramontane.documents import child, fetch, read_document
from tramontane.documents.sandbox import limits_for
from tramontane.errors import DataError


class Site:
    """A listener on loopback that counts connections; `answer` writes the reply."""

    def __init__(self) -> None:
        self.num_requests = 0
        self.paths: list[str] = []
        self.answer: Callable[[BaseHTTPRequestHandler], None] = lambda handler: send(handler, b"Hello from inside.")
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.num_requests += 1
                site.paths.append(self.path)
                site.answer(self)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_port


def send(handler: BaseHTTPRequestHandler, body: bytes, content_type: str = "text/plain", **headers: str) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", content_type)
    handler.send_header("Content-Length", str(len(body)))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    thread = threading.Thread(target=site.server.serve_forever, args=(0.01,))
    thread.start()
    yield site
    site.server.shutdown()
    thread.join()
    site.server.server_close()


LOOPBACK_FORMS = [
    "127.0.0.1", "localhost", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.0.0.1", "0177.0.0.1",
    "017700000001", "0.0.0.0", "0", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]",
    "[64:ff9b::127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[2001:0:7f00:1::]", "LOCALHOST", "localhost.",
    "127.0.0.1.", "１２７.0.0.1", "①②⑦.0.0.1", "127。0。0。1",
]  # fmt: skip
PRIVATE_FORMS = [
    "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "224.0.0.1", "255.255.255.255",
    "198.18.0.1", "240.0.0.1", "[fe80::1]", "[fc00::1]", "[fd00:ec2::254]", "[ff02::1]", "[fec0::1]",
    "[::ffff:169.254.169.254]", "[64:ff9b::a9fe:a9fe]", "0xa9fea9fe", "2852039166", "0251.0376.0251.0376",
    "168.63.129.16", "0xa83f8110", "[64:ff9b::a83f:8110]", "[::ffff:168.63.129.16]", "[2002:a83f:8110::]",
    "100.100.100.200", "192.0.0.192", "192.0.0.8", "192.88.99.1", "[fd20:ce::254]", "[64:ff9b:1::a00:1]", "[ff0e::1]",
]  # fmt: skip


@pytest.mark.parametrize("template", ["http://{}:{}/x", "HTTP://{}:{}/", "https://{}:{}/x", "http://{}:{}"])
def test_no_spelling_of_an_inner_address_is_dialled(site: Site, template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dialled: list[Any] = []
    real = socket.socket.connect

    def connect(self: socket.socket, to: Any) -> None:
        dialled.append(to)
        real(self, to)

    monkeypatch.setattr(socket.socket, "connect", connect)
    for host in (*LOOPBACK_FORMS, *PRIVATE_FORMS):
        with pytest.raises(DataError):
            fetch.fetch(template.format(host, site.port))
    inner = [to for to in dialled if isinstance(to, tuple) and not fetch.is_public(to[0]) and to[1] == site.port]
    assert inner == []
    assert site.num_requests == 0


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd", "ftp://example.org", "http://", "http:///x", "//127.0.0.1/", "http://a b/",
        "http://127.0.0.1:99999/", "http://user@127.0.0.1/", "http://user:pass@example.org/", "javascript:alert(1)",
        "http://example.org\\@127.0.0.1/", "http://127.0.0.1\\.example.org/", "http://exa\tmple.org", "http://\0/",
        "http://[::1", "http://..", "http://" + "a" * 300 + ".org/", "data:text/plain,x", "unix:///run/x",
    ],
)  # fmt: skip
def test_odd_addresses_are_refused_in_one_line(url: str) -> None:
    with pytest.raises(DataError) as caught:
        fetch.fetch(url)
    assert "\n" not in str(caught.value)


def test_every_address_of_a_name_must_be_public(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, 80)) for ip in ("93.184.216.34", "10.0.0.7")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: answers)
    with pytest.raises(DataError, match=r"example.org \(10.0.0.7\) is inside this machine"):
        fetch.fetch("http://example.org/")


def test_the_address_checked_is_the_address_dialled(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that resolves to a public address once and to loopback ever after (DNS rebinding)."""
    asked: list[Any] = []
    dialled: list[Any] = []
    real = socket.getaddrinfo

    def rebind(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        if host in ("rebind.example", b"rebind.example"):
            asked.append(host)
            ip = "203.0.114.9" if len(asked) == 1 else "127.0.0.1"
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, site.port))]
        return real(host, port, *args, **kwargs)

    def dial(address: Any, *args: Any, **kwargs: Any) -> Any:
        dialled.append(address[0])
        raise OSError("no route in this test")

    monkeypatch.setattr(socket, "getaddrinfo", rebind)
    monkeypatch.setattr(socket, "create_connection", dial)
    with pytest.raises(DataError, match="could not be reached"):
        fetch.fetch(f"http://rebind.example:{site.port}/")
    assert dialled == ["203.0.114.9"]
    assert len(asked) == 1


def test_a_redirect_into_the_machine_is_not_followed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first hop is let through by hand; the second must face the check."""
    site.answer = lambda handler: redirect(handler, f"http://localhost:{site.port}/secret")
    real = fetch.resolve
    monkeypatch.setattr(
        fetch,
        "resolve",
        lambda name, port, *, allow_private: real(name, port, allow_private=allow_private or name == "127.0.0.1"),
    )
    with pytest.raises(DataError, match=r"localhost .*inside this machine"):
        fetch.fetch(f"http://127.0.0.1:{site.port}/start")
    assert site.paths == ["/start"]


def redirect(handler: BaseHTTPRequestHandler, to: str) -> None:
    handler.send_response(302)
    handler.send_header("Location", to)
    handler.send_header("Content-Length", "0")
    handler.end_headers()


@pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://example.org/", "http://user@localhost/"])
def test_a_redirect_to_another_scheme_is_refused(site: Site, to: str) -> None:
    site.answer = lambda handler: redirect(handler, to)
    with pytest.raises(DataError, match=r"only http and https|user name"):
        fetch.fetch(f"http://127.0.0.1:{site.port}/", allow_private=True)


def test_endless_redirects_end(site: Site) -> None:
    site.answer = lambda handler: redirect(handler, "/again")
    with pytest.raises(DataError, match="redirected more than 5 times"):
        fetch.fetch(f"http://127.0.0.1:{site.port}/", allow_private=True)
    assert site.num_requests == 6


def test_an_oversized_body_is_cut(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "MAX_PAGE_BYTES", 1 << 20)
    sent = [0]

    def flood(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            for _ in range(100):
                sent[0] += handler.wfile.write(bytes(1 << 20))
        except OSError:
            pass

    site.answer = flood
    with pytest.raises(DataError, match="larger than 1 MiB"):
        fetch.fetch(f"http://127.0.0.1:{site.port}/", allow_private=True)
    assert sent[0] < 50 << 20


def test_a_dripping_server_is_cut_by_the_clock(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(b"x")
                time.sleep(0.05)
        except OSError:
            pass

    site.answer = drip
    monkeypatch.setattr(child, "FETCH_S", 1)
    started = time.monotonic()
    reply = child.reply_to("url", b'{"url": "http://127.0.0.1:%d/", "allow_private": true}' % site.port, limits_for(0))
    assert reply == b"-took more than 1 s to arrive; given up"
    assert time.monotonic() - started < 30  # endless without the clock


def test_a_compressed_reply_is_refused(site: Site) -> None:
    site.answer = lambda handler: send(handler, b"\x1f\x8b...", Content_Encoding="gzip")
    with pytest.raises(DataError, match="compressed"):
        fetch.fetch(f"http://127.0.0.1:{site.port}/", allow_private=True)


def test_an_error_status_is_reported(site: Site) -> None:
    site.answer = lambda handler: handler.send_error(404)
    with pytest.raises(DataError, match="the server answered 404 Not Found"):
        fetch.fetch(f"http://127.0.0.1:{site.port}/", allow_private=True)


@pytest.mark.parametrize(
    ("body", "content_type", "text"),
    [
        (b"Hello from inside.", "text/plain", "Hello from inside."),
        ("<html><body><p>Été</p></body></html>".encode("latin-1"), "text/html; charset=iso-8859-1", "Été"),
        ("<html><body><p>Été</p></body></html>".encode(), "text/html; charset=utf-8", "Été"),
        ("<html><body><p>Été</p></body></html>".encode("latin-1"), "text/html; charset=nonsense", "Été"),
        (b"<html><body><p>Plain markup</p></body></html>", "", "Plain markup"),
    ],
)
def test_a_page_is_read_where_that_is_permitted(site: Site, body: bytes, content_type: str, text: str) -> None:
    site.answer = lambda handler: send(handler, body, content_type)
    url = f"http://127.0.0.1:{site.port}/page?x=1"
    assert read_document(url, allow_private=True).text.strip() == text
    assert site.paths == ["/page?x=1"]
    with pytest.raises(DataError, match=rf"^http://127.0.0.1:{site.port}/page.* --allow-private permits it"):
        read_document(url)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "64:ff9b::808:808"])
def test_public_addresses_are_public(address: str) -> None:
    assert fetch.is_public(address)

"""Connections that keep a server waiting, over real sockets: each is ended by its own limit, and costs nobody else."""

from __future__ import annotations

import contextlib
import json
import re
import resource
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.server.live import LiveServer, start_server
from tramontane.errors import ConfigError
from tramontane.server.connections import Allowance, ConnectionLimits, Connections, address_of
from tramontane.server.serve import OTHER_FILES, connection_limits
from tramontane.server.settings import ServerSettings

STALL_S = 1.5
PATIENCE_S = 60.0
CHAT = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
FORM = b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"


@pytest.fixture(scope="module")
def strict(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """With short limits, and few files."""
    limits = ["--head-s", STALL_S, "--body-stall-s", STALL_S, "--read-stall-s", STALL_S, "--min-bytes-per-s", 100]
    live = start_server(tmp_path_factory.mktemp("strict"), [checkpoints["chat"], *limits])
    yield live
    assert live.stop() == 0
    log = live.log.read_text(encoding="utf-8")
    assert "Traceback" not in log, log


def connect(server: LiveServer) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=PATIENCE_S)


def read_to_end(connection: socket.socket) -> bytes:
    """Until the server closes."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while data := connection.recv(65536):
            received += data
    return received


def read_answer(connection: socket.socket) -> int:
    """The status of one whole answer."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(1)
    (length,) = re.findall(rb"content-length: (\d+)", received)
    for _ in range(int(length)):
        assert connection.recv(1)
    return int(received.split()[1])


def trickle(connection: socket.socket, data: bytes, pause_s: float) -> tuple[float, bytes]:
    """Seconds until the server has had enough of a byte at a time, and what it said."""
    started = time.monotonic()
    for number in range(100_000):
        if select.select([connection], [], [], pause_s)[0]:
            return time.monotonic() - started, read_to_end(connection)
        with contextlib.suppress(OSError):
            connection.sendall(data[number % len(data) :][:1])
        assert time.monotonic() - started < PATIENCE_S
    raise AssertionError


def status_of(answer: bytes) -> int:
    head, _, body = answer.partition(b"\r\n\r\n")
    status = int(head.split()[1])
    assert json.loads(body)["raw_status_code"] == status
    return status


def wait_for(http: httpx.Client, label: str, count: float) -> None:
    """For requests in /metrics."""
    until = time.monotonic() + PATIENCE_S
    while f"{label} {count}" not in http.get("/metrics").text:
        assert time.monotonic() < until, http.get("/metrics").text
        time.sleep(0.05)


@pytest.mark.parametrize("begin", [b"", b"GET /health HTTP/1.1\r\nX-A: ", b"POST /v1/files HTTP/1.1\r\n"])
def test_a_head_that_does_not_come_ends_the_connection(strict: LiveServer, begin: bytes) -> None:
    with connect(strict) as connection:
        connection.sendall(begin)
        answer = read_to_end(connection)
    assert (status_of(answer) if answer else 0) == (408 if begin else 0)


def test_a_head_that_comes_a_byte_at_a_time_ends_the_connection(strict: LiveServer) -> None:
    with connect(strict) as connection:
        took_s, answer = trickle(connection, b"GET /health HTTP/1.1\r\n" + b"X-A: a\r\n" * 10_000, 0.1)
    assert status_of(answer) == 408
    assert took_s >= STALL_S


def test_the_next_head_has_its_time_from_its_first_byte(strict: LiveServer) -> None:
    whole = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with connect(strict) as connection:
        for _ in range(2):
            time.sleep(STALL_S * 0.7)
            connection.sendall(whole)
            assert read_answer(connection) == 200
        time.sleep(STALL_S * 1.5)  # idle between requests, which is no fault
        connection.sendall(whole)
        assert read_answer(connection) == 200
        _, answer = trickle(connection, whole[:-2] + b"X-A: a\r\n" * 10_000, 0.1)
    assert status_of(answer) == 408


@pytest.mark.parametrize("head", [CHAT + b"Content-Length: 5000\r\n\r\n", FORM + b"Content-Length: 5000\r\n\r\n--x"])
@pytest.mark.parametrize("pause_s", [0.1, PATIENCE_S])
def test_a_body_that_stalls_or_trickles_ends_the_connection(strict: LiveServer, head: bytes, pause_s: float) -> None:
    with connect(strict) as connection:
        connection.sendall(head + b" " * 50)
        took_s, answer = trickle(connection, b" ", pause_s)
    assert status_of(answer) == 408
    assert took_s >= STALL_S * 0.6


def test_a_slow_body_that_keeps_the_rate_is_taken_to_its_end(strict: LiveServer) -> None:
    body = json.dumps({"model": "chat", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1})
    data = body.encode().ljust(1200)
    with connect(strict) as connection:
        connection.sendall(CHAT + b"Connection: close\r\nContent-Length: 1200\r\n\r\n")
        started = time.monotonic()
        for at in range(0, 1200, 100):
            time.sleep(STALL_S / 6)
            connection.sendall(data[at : at + 100])
        assert time.monotonic() - started > STALL_S * 1.5
        assert read_to_end(connection).startswith(b"HTTP/1.1 200")


def test_stalled_uploads_leave_nothing(strict: LiveServer, tmp_path: Path) -> None:
    """Twenty at once of one caller."""
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(connect(strict)) for _ in range(20)]
        for connection in connections:
            connection.sendall(FORM + b"Content-Length: 33000000\r\n\r\n--x\r\n")
            connection.sendall(b'Content-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + b"x" * 2_000_000)
        with strict.client() as http:
            assert http.get("/health").status_code == 200
        assert [status_of(read_to_end(connection)) for connection in connections] == [408] * 20
    until = time.monotonic() + PATIENCE_S
    while list((strict.log.parent / "server" / "incoming").iterdir()):
        assert time.monotonic() < until, "parts of uploads are left"
        time.sleep(0.1)


def test_a_reader_that_takes_nothing_is_given_up(strict: LiveServer) -> None:
    """Of a file, and of a stream that is longer than what sockets hold."""
    with strict.client() as http:
        made = http.post("/v1/files", files={"file": ("a", b"x" * 30_000_000)}, data={"purpose": "user_data"}).json()
        with connect(strict) as connection:
            connection.sendall(b"GET /v1/files/%s/content HTTP/1.1\r\nHost: localhost\r\n\r\n" % made["id"].encode())
            connection.recv(1000)
            time.sleep(STALL_S * 4)
            assert len(read_to_end(connection)) < 29_000_000
        with http.stream("GET", f"/v1/files/{made['id']}/content") as answer:
            num_bytes = 0
            for chunk in answer.iter_raw(2**20):
                time.sleep(STALL_S / 10)  # slow, but it takes
                num_bytes += len(chunk)
        assert num_bytes == 30_000_000


def test_what_follows_an_answer_in_vain_is_read_for_a_while_only(strict: LiveServer) -> None:
    """An answer that does not wait for the body: the connection goes on for one that ends, and closes otherwise."""
    head = b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 400\r\n\r\n"
    with connect(strict) as connection:
        connection.sendall(head)
        assert read_answer(connection) == 404
        connection.sendall(b" " * 400 + b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert read_answer(connection) == 200
        connection.sendall(head)
        assert read_answer(connection) == 404
        assert trickle(connection, b" ", 0.1)[1] == b""


def test_requests_behind_each_other_are_bounded(strict: LiveServer) -> None:
    one = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with connect(strict) as connection:
        connection.sendall(one * 20)
        received = b""
        while received.count(b"HTTP/1.1 200") < 20:
            received += connection.recv(65536)
        with contextlib.suppress(OSError):
            connection.sendall(one * 20_000)
        received = read_to_end(connection)
    assert 20 <= received.count(b"HTTP/1.1 200") <= 200
    assert received.count(b"HTTP/1.1") == received.count(b"HTTP/1.1 200")
    assert b"connection: close" in received[received.rindex(b"HTTP/1.1") :]


def test_what_is_wrong_with_the_next_request_is_not_said_into_an_answer(strict: LiveServer) -> None:
    body = json.dumps({"model": "chat", "prompt": "x", "max_tokens": 200, "ignore_eos": True}).encode()
    request = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with connect(strict) as connection:
        connection.sendall(request + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        connection.sendall(b"\x16\x03\x01 nonsense\r\n\r\n")
        received = read_to_end(connection)
    assert received.startswith(b"HTTP/1.1 200")
    assert received.count(b"HTTP/1.1") == 1
    json.loads(received.partition(b"\r\n\r\n")[2])


def test_half_heads_beyond_all_places_cost_nobody_else_anything(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """150 of them where the process may open 128 files."""
    live = start_server(tmp_path, [checkpoints["chat"]], module="tests.server.few_files_server")
    with contextlib.ExitStack() as stack:
        for _ in range(150):
            connection = stack.enter_context(connect(live))
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-A: ")
        for _ in range(20):
            assert httpx.get(f"{live.url}/health", timeout=PATIENCE_S).status_code == 200
        with live.client() as http:  # and files can be opened
            assert http.post("/v1/files", files={"file": b"x"}, data={"purpose": "user_data"}).status_code == 200
    assert live.stop() == 0
    assert "idle ones are closed" in live.log.read_text(encoding="utf-8")


def test_beyond_the_cap_of_requests_under_way_a_connection_is_told_so(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    live = start_server(tmp_path, [checkpoints["chat"], "--max-connections", 3])
    with contextlib.ExitStack() as stack:
        for _ in range(3):  # bodies that are awaited: requests under way
            connection = stack.enter_context(connect(live))
            connection.sendall(CHAT + b"Content-Length: 100\r\n\r\n")
        time.sleep(0.5)
        with connect(live) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert status_of(read_to_end(connection)) == 503
    assert httpx.get(f"{live.url}/health", timeout=PATIENCE_S).status_code == 200
    assert live.stop() == 0


class Idle:
    """A connection that does nothing."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.is_dropped = False

    def check(self, now: float, waited_s: float) -> None: ...

    def drop(self) -> None:
        self.is_dropped = True


def test_an_address_makes_room_for_its_own_and_the_fullest_for_others() -> None:
    connections = Connections(ConnectionLimits(max_connections=6, max_per_address=4, proxies=["10.0.0.9"]))
    crowd = [Idle("10.0.0.1") for _ in range(5)]
    assert all(map(connections.add, crowd))
    assert [one.is_dropped for one in crowd] == [True, False, False, False, False]
    lone = [Idle("10.0.0.2"), Idle("10.0.0.3"), Idle("10.0.0.4")]
    assert all(map(connections.add, lone))
    assert [one.is_dropped for one in crowd] == [True, True, False, False, False]
    assert not any(one.is_dropped for one in lone)
    for one in crowd[2:]:
        connections.busy(one)
    assert connections.add(Idle("10.0.0.5"))  # of the others, one is idle
    assert [one.is_dropped for one in lone] == [True, False, False]
    for _ in range(2):
        connections.busy(lone[1])
        connections.busy(lone[2])
    busy = Idle("10.0.0.6")
    assert connections.add(busy)
    connections.busy(busy)
    assert not connections.add(Idle("10.0.0.7"))
    proxy = Connections(ConnectionLimits(max_connections=10, max_per_address=1, proxies=["10.0.0.9"]))
    many = [Idle(address) for address in ("10.0.0.9", "127.0.0.1") for _ in range(4)]
    assert all(map(proxy.add, many))
    assert not any(one.is_dropped for one in many)


def test_whose_connection_it_is() -> None:
    assert address_of("127.3.0.1") == address_of("::1") == address_of("::ffff:127.0.0.1") == "127.0.0.1"
    assert address_of("::ffff:10.1.2.3") == address_of("10.1.2.3") == "10.1.2.3"
    assert address_of("2001:db8:1:2::3") == address_of("2001:db8:1:2:ffff::4") != address_of("2001:db8:1:3::3")


def test_an_allowance_lets_pauses_pass_and_no_trickle() -> None:
    allowance = Allowance(10, 100)
    allowance.earn(10_000_000)  # much at once buys no longer pause
    assert not allowance.spend(9)
    allowance.earn(500)
    assert not allowance.spend(5)
    assert allowance.spend(2)


def test_connections_are_as_many_as_the_process_has_files_for() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limits = connection_limits(ServerSettings())
    raised = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert raised >= soft
    assert 2 * limits.max_connections + OTHER_FILES <= raised
    assert connection_limits(ServerSettings(max_connections=9)).max_connections == 9
    with pytest.raises(ConfigError, match="ulimit -n"):
        connection_limits(ServerSettings(max_connections=2**19 + hard % 2))

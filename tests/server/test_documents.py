"""/api/documents over a live server: files of every kind in, text, summaries and answers out; and the limits."""

from __future__ import annotations

import base64
import json
import os
import socket
import sys
import time
from contextlib import ExitStack, closing, suppress
from http.client import HTTPConnection
from pathlib import Path

import httpx
import pytest

from tests.documents.hostile_files import HOSTILE
from tests.documents.sample_files import docx_of, pdf_of
from tests.server.live import LiveServer
from tramontane.documents.sandbox import BASE_CPU_S
from tramontane.server.document_work import MAX_FILE_BYTES, display_name

LONG = "\n\n".join(f"Section {i} is about wind number {i} of the coast." for i in range(120))


def read(http: httpx.Client, name: str, data: bytes, **fields: str) -> httpx.Response:
    return http.post("/api/documents/text", files={"file": (name, data)}, data=fields)


@pytest.mark.parametrize(
    ("name", "data", "text"),
    [
        ("a.txt", "Grüße".encode(), "Grüße"),
        ("a.md", b"# Title\n\ntext", "# Title\n\ntext"),
        ("a.html", b"<html><body><article><h1>T</h1><p>Some words of an article.</p></article></body></html>", "words"),
        ("a.pdf", pdf_of("The contract ends in March."), "The contract ends in March."),
        ("a.docx", docx_of("Heading", "A paragraph."), "A paragraph."),
    ],
)
def test_every_kind_of_file_becomes_text(http: httpx.Client, name: str, data: bytes, text: str) -> None:
    answer = read(http, name, data, model="chat")
    assert answer.status_code == 200, answer.text
    document = answer.json()
    assert document["name"] == name
    assert text in document["text"]
    assert document["num_tokens"] > 0
    assert document["reach"] == 2048  # one layer at least sees all of the context
    without = read(http, name, data).json()
    assert without["num_tokens"] is None
    assert without["reach"] is None


@pytest.mark.parametrize(
    ("data", "status", "message"),
    [
        (b"%PDF-1.4 nothing", 400, "bad.pdf: "),
        (b"\xff\xfe\xfd\x00\x01", 400, "bad.pdf: "),
        (b"   ", 400, "bad.pdf: holds no text"),
    ],
)
def test_what_cannot_be_read_is_one_line(http: httpx.Client, data: bytes, status: int, message: str) -> None:
    answer = read(http, "bad.pdf", data)
    assert answer.status_code == status
    assert answer.json()["message"].startswith(message)
    assert "\n" not in answer.json()["message"]


def test_forms_that_are_wrong(http: httpx.Client) -> None:
    assert http.post("/api/documents/text", files={"other": b"x"}).status_code == 422
    assert http.post("/api/documents/text", data={"file": "x"}).status_code == 422
    assert read(http, "a.txt", b"x", model="no-such").status_code == 400
    assert http.post("/api/documents/text", files=[("file", b"x"), ("file", b"y")]).status_code == 400
    assert http.post("/api/documents/text", content=iter([b"x"])).status_code == 411  # its length is not told


def test_too_large_a_file_is_refused_before_any_of_it_is_sent(http: httpx.Client) -> None:
    with closing(HTTPConnection(http.base_url.host, http.base_url.port, timeout=30)) as connection:
        connection.putrequest("POST", "/api/documents/text")
        connection.putheader("content-type", "multipart/form-data; boundary=x")
        connection.putheader("content-length", str(MAX_FILE_BYTES + (1 << 20)))
        connection.endheaders()
        assert connection.getresponse().status == 413


def test_a_summary_whole_and_streamed(http: httpx.Client) -> None:
    body = {"model": "chat", "text": LONG, "words": 10}
    whole = http.post("/api/documents/summary", json=body).json()
    assert whole["num_parts"] > 1
    assert whole["usage"]["completion_tokens"] > 0
    events = stream(http, "/api/documents/summary", body)
    assert [event["type"] for event in events[-2:]] == ["progress", "result"]
    assert events[0] == {"type": "progress", "pass": 1, "done": events[0]["done"], "total": whole["num_parts"]}
    assert {k: events[-1][k] for k in ("text", "num_parts", "num_passes")} == {
        k: whole[k] for k in ("text", "num_parts", "num_passes")
    }


def test_an_answer_names_its_passages(http: httpx.Client) -> None:
    body = {"model": "chat", "text": LONG, "question": "What is wind number 117?", "passages": 2}
    whole = http.post("/api/documents/answer", json=body).json()
    assert any("wind number 117" in passage["text"] for passage in whole["passages"])
    assert all(LONG[p["start"] :].startswith(p["text"][:20]) for p in whole["passages"])
    [result] = stream(http, "/api/documents/answer", body)
    assert (result["text"], result["passages"]) == (whole["text"], whole["passages"])


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"words": 9}, 422), ({"words": True}, 422), ({"text": ""}, 422), ({"model": "x"}, 400),
        ({"text": None}, 422),
    ],
)  # fmt: skip
@pytest.mark.parametrize("streams", [False, True])
def test_summaries_that_cannot_be(http: httpx.Client, change: dict[str, object], status: int, streams: bool) -> None:
    body = {"model": "chat", "text": "x", "words": 10, "stream": streams} | change
    assert http.post("/api/documents/summary", json=body).status_code == status


def test_a_reader_that_goes_ends_the_work(http: httpx.Client) -> None:
    body = {"model": "chat", "text": LONG * 40, "words": 100, "stream": True}
    with http.stream("POST", "/api/documents/summary", json=body) as response:
        next(response.iter_lines())
    for _ in range(20):
        before = num_steps(http)
        time.sleep(1)
        if num_steps(http) - before <= 3:  # an idle engine turns once a second
            return
    pytest.fail("the engine still works for a reader that has gone")


def test_a_small_document_is_read_while_summaries_of_long_texts_wait(http: httpx.Client) -> None:
    """Four of them once held every thread there was, for hours."""
    summary = {"model": "chat", "text": LONG * 100, "words": 100, "stream": True}
    document = {"type": "document_url", "document_url": "data:text/plain;base64,RWxldmVuIGJ5dGU="}
    message = {"role": "user", "content": [document]}
    with ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(http.stream("POST", "/api/documents/summary", json=summary))
        body = {"model": "chat", "messages": [message], "max_tokens": 2}
        assert http.post("/v1/chat/completions", json=body).status_code == 200
        assert read(http, "a.pdf", pdf_of("The contract ends in March.")).status_code == 200


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("path", ["/api/documents/text", "/v1/chat/completions"])
def test_a_parser_ends_with_its_client(server: LiveServer, path: str) -> None:
    """It once went on for its two minutes of processor time."""
    page = HOSTILE["attributes.html"](300_000)
    with server.client() as client:
        if path == "/api/documents/text":
            request = client.build_request("POST", path, files={"file": ("a.html", page)})
        else:
            url = f"data:text/html;base64,{base64.b64encode(page).decode()}"
            content = [{"type": "document_url", "document_url": url, "document_name": "a.html"}]
            request = client.build_request(
                "POST", path, json={"model": "chat", "messages": [{"role": "user", "content": content}]}
            )
        with closing(socket.create_connection((client.base_url.host, client.base_url.port or 80))) as connection:
            headers = b"".join(b"%s: %s\r\n" % pair for pair in request.headers.raw)
            connection.sendall(b"POST %s HTTP/1.1\r\n%s\r\n%s" % (path.encode(), headers, request.read()))
            while not (started := children(server)):
                time.sleep(0.01)
        last_s = 0.0
        while alive := started & children(server):
            last_s = max(last_s, *map(cpu_seconds, alive))
            time.sleep(0.01)
        assert last_s < BASE_CPU_S / 2, "it went on to the limit of its own"


def children(server: LiveServer) -> set[int]:
    tasks = Path(f"/proc/{server.process.pid}/task").iterdir()
    return {int(pid) for task in tasks for pid in (task / "children").read_text().split()}


def cpu_seconds(pid: int) -> float:
    with suppress(FileNotFoundError, ProcessLookupError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def num_steps(http: httpx.Client) -> int:
    steps: int = http.get("/health").json()["models"]["chat"]["steps"]
    return steps


def stream(http: httpx.Client, path: str, body: dict[str, object]) -> list[dict[str, object]]:
    with http.stream("POST", path, json=body | {"stream": True}) as response:
        assert response.status_code == 200
        return [json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: ")]


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("../../etc/passwd", "passwd"), ("C:\\a\\b.txt", "b.txt"), ("a\x00\n\u202eb.txt", "ab.txt"), (None, "document"),
        ("..", ".."), ("/", "document"), ("x" * 999, "x" * 200),
    ],
)  # fmt: skip
def test_names_are_shown_and_never_paths(given: str | None, shown: str) -> None:
    assert display_name(given) == shown

"""A hub on the loopback interface that serves what a test gives it, and fails the way the test tells it to."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "c0ffee" + "0" * 34
REPOSITORY = "mistralai/Tiny-7B"
LARGE_BYTES = 4096  # files from this size on are listed as large ones, with a sha256


@dataclass
class Request:
    path: str
    range: str | None
    authorization: str | None


@dataclass
class Answer:
    """What goes over the wire; a fault changes it. `cut_at`: close the connection after so many bytes of body."""

    status: int
    headers: dict[str, str]
    body: bytes
    cut_at: int | None = None


Fault = Callable[[Answer, Request], Answer]


@dataclass
class FakeHub:
    files: dict[str, bytes]
    repository: str = REPOSITORY
    commit: str = COMMIT
    faults: dict[str, list[Fault]] = field(default_factory=dict)  # by file (or "listing"), used up one per request
    change_listing: Callable[[dict[str, Any]], None] = lambda listing: None
    address: str = ""
    requests: list[Request] = field(default_factory=list)

    def fetched(self, name: str) -> list[Request]:
        return [request for request in self.requests if request.path.endswith(f"/resolve/{self.commit}/{name}")]

    def answer(self, request: Request) -> Answer:
        if request.path.startswith(f"/api/models/{self.repository}/revision/main"):
            listing = {"id": self.repository, "sha": self.commit, "siblings": [sibling(*f) for f in self.files.items()]}
            self.change_listing(listing)
            answer = Answer(200, {"Content-Type": "application/json"}, json.dumps(listing).encode())
            return self._fault("listing", answer, request)
        if request.path.startswith(f"/api/models/{self.repository}/revision/"):
            return Answer(404, {"X-Error-Code": "RevisionNotFound"}, b"")
        prefix = f"/{self.repository}/resolve/{self.commit}/"
        name = request.path.removeprefix(prefix)
        if not request.path.startswith(prefix) or name not in self.files:
            return Answer(404, {"X-Error-Code": "RepoNotFound"}, b"")
        return self._fault(name, ranged(self.files[name], request), request)

    def _fault(self, name: str, answer: Answer, request: Request) -> Answer:
        faults = self.faults.get(name)
        return faults.pop(0)(answer, request) if faults else answer


def sibling(name: str, content: bytes) -> dict[str, Any]:
    listed: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": git_sha1(content)}
    if len(content) >= LARGE_BYTES:
        sha256 = hashlib.sha256(content).hexdigest()
        listed["lfs"] = {"size": len(content), "sha256": sha256, "pointerSize": 135}
    return listed


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def ranged(content: bytes, request: Request) -> Answer:
    if request.range is None:
        return Answer(200, {}, content)
    start = int(request.range.removeprefix("bytes=").removesuffix("-"))
    if start >= len(content):
        return Answer(416, {}, b"")
    headers = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
    return Answer(206, headers, content[start:])


def flip_bit(place: int) -> Fault:
    def fault(answer: Answer, request: Request) -> Answer:
        body = bytearray(answer.body)
        body[place] ^= 1
        return Answer(answer.status, answer.headers, bytes(body))

    return fault


def cut(place: int) -> Fault:
    return lambda answer, request: Answer(answer.status, answer.headers, answer.body, cut_at=place)


def answer_with(status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> Fault:
    return lambda answer, request: Answer(status, headers or {}, body)


def redirect(url: str, status: int = 302) -> Fault:
    return lambda answer, request: Answer(status, {"Location": url}, b"")


def no_fault(answer: Answer, request: Request) -> Answer:
    return answer


@contextmanager
def serve(hub: FakeHub) -> Iterator[FakeHub]:
    """Run `hub` on a free port until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            request = Request(self.path, self.headers["Range"], self.headers["Authorization"])
            hub.requests.append(request)
            answer = hub.answer(request)
            self.send_response(answer.status)
            for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.body[: answer.cut_at])
            self.close_connection = answer.cut_at is not None

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda request, client_address: None  # type: ignore[method-assign]  # a client that has gone
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    hub.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

"""The files API: whole journeys, hostile uploads, owners, limits, faults."""

from __future__ import annotations

import json
import random
import resource
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event

from tests.server.in_process import serving
from tramontane.server.files.upload import clean_name
from tramontane.server.keys import KeyOptions, create_key
from tramontane.server.store.tie import TIE

CHAT_LINE = json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})
BATCH_LINES = "\n".join(json.dumps({"custom_id": str(n), "body": {"messages": []}}) for n in range(3))

SAME_ID = '{"custom_id": "a", "body": {}}\n{"custom_id": "a", "body": {}}'


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def client(checkpoints: dict[str, Path], home: Path) -> Iterator[TestClient]:
    with serving({"chat": checkpoints["chat"]}, home, max_upload_mib=1) as client:
        yield client


def upload(
    client: TestClient, content: str | bytes = CHAT_LINE, name: str = "a.jsonl", **more: Any
) -> tuple[int, dict[str, Any]]:
    headers = more.pop("headers", {})
    answer = client.post("/v1/files", files={"file": (name, content)}, data=more, headers=headers)
    return answer.status_code, answer.json()


def stored(home: Path) -> list[Path]:
    found = [path for folder in ("files", "incoming") for path in (home / folder).rglob("*") if path.is_file()]
    return [path for path in found if path != home / "files" / TIE]


def test_a_whole_journey(client: TestClient, home: Path) -> None:
    status, made = upload(client, CHAT_LINE + "\n" + CHAT_LINE, purpose="fine-tune")
    assert status == 200
    assert {key: made[key] for key in ("object", "purpose", "sample_type", "source", "num_lines", "status")} == {
        "object": "file", "purpose": "fine-tune", "sample_type": "instruct", "source": "upload", "num_lines": 2,
        "status": "processed",
    }  # fmt: skip
    path = f"/v1/files/{made['id']}"
    assert client.get(path).json() == made
    whole = client.get(f"{path}/content")
    assert whole.headers["content-type"] == "application/octet-stream"
    assert whole.text == CHAT_LINE + "\n" + CHAT_LINE
    url = client.get(f"{path}/url", params={"expiry": 1}).json()["url"]
    assert TestClient(client.app, client=("203.0.113.9", 1), base_url="http://localhost").get(url).text == whole.text
    assert client.delete(path).json() == {"id": made["id"], "object": "file", "deleted": True}
    for gone in (client.get(path), client.get(f"{path}/content"), client.delete(path), client.get(f"{path}/url")):
        assert gone.status_code == 404
    assert client.get(url).status_code == 403
    assert stored(home) == []


def test_listing(client: TestClient) -> None:
    ids = [upload(client, name=f"wind{n}_.jsonl")[1]["id"] for n in range(5)]
    batch = upload(client, BATCH_LINES, purpose="batch")[1]["id"]

    def names(**query: Any) -> list[str]:
        return [entry["id"] for entry in client.get("/v1/files", params=query).json()["data"]]

    assert names() == [batch, *reversed(ids)]
    assert names(order="asc") == [*ids, batch]
    assert names(page=1, page_size=2) == [ids[3], ids[2]]
    assert names(after=ids[3], limit=2) == [ids[2], ids[1]]
    assert names(purpose="batch") == names(sample_type=["batch_request"]) == [batch]
    assert names(search="WIND3_") == [ids[3]]
    assert names(search="%") == []
    assert names(source=["mistral"]) == []
    assert set(names(mimetypes=["application/jsonl", "x/y"])) == {*ids, batch}
    page = client.get("/v1/files", params={"limit": 2}).json()
    assert (page["total"], page["has_more"], page["last_id"]) == (6, True, ids[4])
    assert client.get("/v1/files", params={"include_total": False}).json()["total"] is None
    for query in ({"page": -1}, {"page_size": 0}, {"page": 2**63}, {"limit": "x"}, {"order": "up"}):
        assert client.get("/v1/files", params=query).status_code == 422
    for file_id in (*ids, batch):
        client.delete(f"/v1/files/{file_id}")


@pytest.mark.parametrize(
    ("content", "fields", "message"),
    [
        ("", {}, "the file is empty"),
        ("wind", {}, "line 1: not valid JSON"),
        ('{"messages": []}', {}, "line 1"),
        (SAME_ID, {"purpose": "batch"}, "line 2: custom_id 'a'"),
        ('{"custom_id": "a"}', {"purpose": "batch"}, "body must be an object"),
        ('{"custom_id": "a", "body": ' + "[" * 200_000, {"purpose": "batch"}, "values"),
        ('{"custom_id": "a", "url": "x", "body": {}}', {"purpose": "batch"}, "method must be"),
        (CHAT_LINE, {"purpose": "wind"}, "purpose must be one of"),
        (CHAT_LINE, {"visibility": "all"}, "visibility must be"),
        (CHAT_LINE, {"expiry": "-1"}, "expiry must be"),
        (CHAT_LINE, {"wind": "1"}, "wind is not a field"),
    ],
)  # fmt: skip
def test_what_is_refused(client: TestClient, home: Path, content: str, fields: dict[str, str], message: str) -> None:
    status, answer = upload(client, content, **fields)
    assert status == 422
    assert message in answer["message"]
    assert answer["detail"]
    assert stored(home) == []


def test_forms_that_are_broken(client: TestClient, home: Path) -> None:
    boundary = "multipart/form-data; boundary=x"
    part = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nabc\r\n'
    other = b'--x\r\nContent-Disposition: form-data; name="%d"\r\n\r\n1\r\n'
    cases = [
        ("text/plain", b"abc", 415),
        ("application/json", b"{}", 415),
        ("multipart/form-data", part, 400),
        (f"multipart/form-data; boundary={'x' * 1000}", part, 400),
        (boundary, part, 400),  # the closing boundary is missing
        (boundary, part + part + b"--x--\r\n", 400),
        (boundary, b"".join(other % n for n in range(1000)) + b"--x--\r\n", 400),
        (boundary, (other % 1) * 2 + b"--x--\r\n", 400),
        (boundary, b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + b"y" * 100_000 + b"\r\n--x--\r\n", 400),
        (boundary, b"--x\r\n" + b"A: b\r\n" * 1000 + b"\r\nabc\r\n--x--\r\n", 400),
        (boundary, b"--x\r\nA: " + b"b" * 100_000 + b"\r\n\r\nabc\r\n--x--\r\n", 400),
        (boundary, b"--x\r\nContent-Disposition: form-data\r\n\r\nabc\r\n--x--\r\n", 400),
        (boundary, (other % 1) + b"--x--\r\n", 422),
        (boundary, b"", 400),
        (boundary, b"\x00" * 1000, 400),
    ]
    for content_type, body, status in cases:
        answer = client.post("/v1/files", content=body, headers={"content-type": content_type})
        assert answer.status_code == status, (body[:80], answer.text)
    assert stored(home) == []


def test_forms_that_would_hold_up_others_are_refused_at_once(client: TestClient, home: Path) -> None:
    """Content types that make patterns backtrack, boundaries and fields without measure."""
    kind = "multipart/form-data"
    types = [f"{kind}; {'!=' + chr(34) + chr(92) * size}" for size in (1000, 50_000)]
    types += [f"{kind}; boundary={'x' * size}" for size in (1000, 1_000_000)]
    types += [f"{kind}; {'a=b; ' * size}" for size in (1000, 50_000)]
    types += [f"{kind}{';' * 100_000}", f"{kind}{' ' * 100_000}", f"{kind}; boundary={'-' * 100_000}"]
    for content_type in types:
        started = time.process_time()
        answer = client.post("/v1/files", content=b"--x\r\n" * 100, headers={"content-type": content_type})
        assert answer.status_code == 400, content_type[:50]
        assert time.process_time() - started < 1.0, content_type[:50]
    field = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n'
    endless = {"content-type": f"{kind}; boundary=x"}
    started = time.process_time()
    for body in (field * 100_000, b"--x\r\n" * 300_000, b"\r\n--" * 300_000, b"\r" * 1_000_000, b"-" * 1_000_000):
        assert client.post("/v1/files", content=body, headers=endless).status_code in (400, 413), body[:20]
    assert time.process_time() - started < 5.0
    assert stored(home) == []


def test_a_file_that_is_too_large(client: TestClient, home: Path) -> None:
    assert upload(client, b"x" * (2 << 20), purpose="user_data")[0] == 413
    chunks = (b"--x\r\n" if n == 0 else b"x" * (1 << 20) for n in range(4))
    answer = client.post("/v1/files", content=chunks, headers={"content-type": "multipart/form-data; boundary=x"})
    assert answer.status_code == 413
    assert stored(home) == []


def hostile_names() -> Iterator[str]:
    draw = random.Random(0)
    parts = ("..", "/", "\\", "%2e%2e", "%2f", "\x00", "\n", "\r", "C:", "~", "/etc/passwd", "..\\..",
             "\u202e", "\u2215", "a", ".jsonl", "CON", "\ud800", "\x1b[2J", "<script>", '"', "x" * 300, "é",
    )  # fmt: skip
    for _ in range(10_000):
        yield "".join(draw.choices(parts, k=draw.randrange(1, 8)))


def test_names_are_only_shown(client: TestClient, home: Path) -> None:
    names = list(hostile_names())
    for name in names:
        shown = clean_name(name)
        assert shown.isprintable()
        assert 1 <= len(shown) <= 255
        assert not {"/", "\\"} & set(shown)
        assert shown not in (".", "..")
        shown.encode()
    before = {path for path in home.rglob("*") if path.name not in ("state.db-wal", "state.db-shm")}
    ids = []
    for name in names[:50]:
        quoted = name.encode("utf-8", "surrogatepass").replace(b'"', b"%22").replace(b"\r", b"").replace(b"\n", b"")
        head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="' + quoted + b'"\r\n\r\n'
        body = head + CHAT_LINE.encode() + b"\r\n--x--\r\n"
        answer = client.post("/v1/files", content=body, headers={"content-type": "multipart/form-data; boundary=x"})
        assert answer.status_code == 200, (name, answer.text)
        ids.append(answer.json()["id"])
    made = {path for path in home.rglob("*") if path.is_file()} - before
    assert {path.name for path in made if not path.name.startswith("state.db")} == set(ids)
    for file_id in ids:
        disposition = client.get(f"/v1/files/{file_id}/content").headers["content-disposition"]
        assert disposition.startswith("attachment; filename*=UTF-8''")
        client.delete(f"/v1/files/{file_id}")


def test_ids_that_are_none(client: TestClient) -> None:
    for name in ("x", "..%2f..%2fstate.db", "%00", "a" * 36, "0" * 300, "%2e%2e", "' OR 1=1"):
        for path in (f"/v1/files/{name}", f"/v1/files/{name}/content", f"/v1/files/{name}/url"):
            assert client.get(path).status_code == 404
        assert client.delete(f"/v1/files/{name}").status_code in (404, 405)


def test_ranges(client: TestClient) -> None:
    file_id = upload(client, b"0123456789", purpose="user_data")[1]["id"]
    path = f"/v1/files/{file_id}/content"
    for value, content in (("bytes=2-4", "234"), ("bytes=7-", "789"), ("bytes=-2", "89"), ("bytes=0-99", "0123456789")):
        answer = client.get(path, headers={"range": value})
        assert (answer.status_code, answer.text) == (206, content)
    many = "bytes=" + ",".join(f"{n}-{n}" for n in range(100_000))
    started = time.perf_counter()
    for value in (
        many,
        "bytes=0-1,3-4",
        "bytes=10-",
        "bytes=4-2",
        "bytes=-0",
        "bytes=-",
        "wind",
        "bytes=" + "9" * 1000,
    ):
        assert client.get(path, headers={"range": value}).status_code == 416
    assert time.perf_counter() - started < 20
    client.delete(f"/v1/files/{file_id}")


def test_a_full_disk_is_told_and_leaves_nothing_behind(client: TestClient, home: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))  # Python ignores the signal; writing fails instead
    try:
        status, answer = upload(client, b"x" * 600_000, purpose="user_data")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (status, answer["code"]) == (507, "disk_full")
    assert answer["message"] == "the server's disk is full; the file was not stored"
    assert stored(home) == []
    status, made = upload(client, b"x" * 600_000, purpose="user_data")
    assert status == 200
    client.delete(f"/v1/files/{made['id']}")


def test_a_full_database_is_told_and_leaves_nothing_behind(client: TestClient, home: Path) -> None:
    engine = client.app.state.services.database.engine  # type: ignore[attr-defined]

    def no_page_more(connection: sqlite3.Connection, record: object) -> None:
        connection.execute("PRAGMA max_page_count=1")  # SQLite takes the present size for the least

    event.listen(engine, "connect", no_page_more)
    engine.dispose()
    made: list[str] = []
    try:
        while (outcome := upload(client, name="x" * 250))[0] == 200 and len(made) < 1000:
            made.append(outcome[1]["id"])
    finally:
        event.remove(engine, "connect", no_page_more)
        engine.dispose()
    status, answer = outcome
    assert (status, answer["code"]) == (507, "disk_full")
    assert {path.name for path in stored(home)} == set(made)
    for file_id in made:
        assert client.delete(f"/v1/files/{file_id}").status_code == 200


def test_links_cannot_be_bent(client: TestClient) -> None:
    first, second = upload(client)[1]["id"], upload(client)[1]["id"]
    url = client.get(f"/v1/files/{first}/url").json()["url"]
    assert client.get(url).status_code == 200
    expires = url.partition("expires=")[2].partition("&")[0]
    bent = [
        url.replace(first, second),
        url.replace(expires, str(int(expires) + 1)),
        url.replace(expires, "9" * 30),
        url[:-1] + ("0" if url[-1] != "0" else "1"),
        url.partition("?")[0],
        url.partition("&")[0],
        url.partition("signature=")[0] + "signature=%C3%A9",
    ]
    for link in bent:
        assert client.get(link).status_code == 403
    for query in ({"expiry": 0}, {"expiry": 169}):
        assert client.get(f"/v1/files/{first}/url", params=query).status_code == 422
    for file_id in (first, second):
        client.delete(f"/v1/files/{file_id}")


def test_files_expire(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    made = upload(client, expiry="1")[1]
    seconds = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    also = client.post("/v1/files", files={"file": ("a", CHAT_LINE)}, data=seconds).json()
    assert made["expires_at"] == made["created_at"] + 3600
    assert also["expires_at"] == also["created_at"] + 3600
    later = time.time() + 4000
    monkeypatch.setattr("time.time", lambda: later)
    assert client.get(f"/v1/files/{made['id']}").status_code == 404
    assert client.get("/v1/files").json()["total"] == 0


def test_owners_see_their_own_files_alone(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    with serving({"chat": checkpoints["chat"]}, tmp_path) as client:
        database = client.app.state.services.database  # type: ignore[attr-defined]
        alice, bob, alice_too = (
            {"authorization": f"Bearer {create_key(database, KeyOptions(name, owner=owner))[1]}"}
            for name, owner in (("a", "alice"), ("b", None), ("c", "alice"))
        )
        file_id = upload(client, headers=alice)[1]["id"]
        path = f"/v1/files/{file_id}"
        for method, place in (("GET", path), ("GET", f"{path}/content"), ("GET", f"{path}/url"), ("DELETE", path)):
            foreign = client.request(method, place, headers=bob)
            missing = client.request(method, place.replace(file_id, file_id[::-1]), headers=bob)
            assert foreign.status_code == missing.status_code == 404
            assert foreign.json() == missing.json()
        assert client.get("/v1/files", headers=bob).json()["total"] == 0
        assert client.get("/v1/files", params={"after": file_id}, headers=bob).status_code == 404
        assert client.get(path, headers=alice_too).status_code == 200
        assert client.delete(path, headers=alice).status_code == 200


def test_a_file_for_one_user_is_seen_by_the_key_it_came_with_alone(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    with serving({"chat": checkpoints["chat"]}, tmp_path) as client:
        database = client.app.state.services.database  # type: ignore[attr-defined]
        alice, alice_too = (
            {"authorization": f"Bearer {create_key(database, KeyOptions(name, owner='alice'))[1]}"} for name in "ab"
        )
        made = upload(client, visibility="user", headers=alice)[1]
        assert made["visibility"] == "user"
        path = f"/v1/files/{made['id']}"
        batch = {"endpoint": "/v1/chat/completions", "input_files": [made["id"]], "model": "chat"}
        for method, place, body in (
            ("GET", path, None),
            ("GET", f"{path}/content", None),
            ("GET", f"{path}/url", None),
            ("GET", f"/v1/files?after={made['id']}", None),
            ("POST", "/v1/batch/jobs", batch),
            ("DELETE", path, None),
        ):
            foreign = client.request(method, place, json=body, headers=alice_too)
            assert foreign.status_code == 404, (method, place, foreign.text)
        assert client.get("/v1/files", headers=alice_too).json()["total"] == 0
        assert client.get("/v1/files", headers=alice).json()["total"] == 1
        assert client.get(f"{path}/content", headers=alice).text == CHAT_LINE
        assert client.delete(path, headers=alice).status_code == 200

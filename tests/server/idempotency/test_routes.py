"""Idempotency-Key on every route that makes or changes something of the caller's."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from fastapi.testclient import TestClient

from tests.server.fine_tuning.making import greetings, upload
from tests.server.in_process import HELLO, MISTRAL, serving
from tests.server.live import LiveServer
from tramontane.server.keys import SCOPES, KeyOptions, create_key

CHAT = "/v1/chat/completions"
RESPONSE: dict[str, Any] = {"model": "chat", "input": "Say hello", "max_output_tokens": 8, "seed": 1}


@pytest.fixture(scope="module")
def client(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with serving({"chat": checkpoints["chat"]}, tmp_path_factory.mktemp("state"), fine_tuning_nice=0) as client:
        yield client


def key() -> dict[str, str]:
    return {"idempotency-key": str(uuid.uuid4())}


def form(text: str = "x", **fields: str) -> dict[str, Any]:
    return {"files": {"file": ("a.txt", text.encode())}, "data": {"purpose": "user_data", **fields}}


def batch_file(client: TestClient) -> str:
    body = {"model": "chat", "messages": HELLO, "max_tokens": 1}
    line = {"custom_id": "a", "method": "POST", "url": CHAT, "body": body}
    files = {"file": ("a.jsonl", json.dumps(line).encode())}
    return str(client.post("/v1/files", files=files, data={"purpose": "batch"}).json()["id"])


def creates(client: TestClient) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Where what was made is listed, where it is made, and of what."""
    yield "/v1/files", "/v1/files", form()
    inline = {"endpoint": CHAT, "model": "chat", "requests": [{"custom_id": "a", "body": {"messages": HELLO}}]}
    yield "/v1/batch/jobs", "/v1/batch/jobs", {"json": inline}
    file = {"input_file_id": batch_file(client), "endpoint": CHAT, "completion_window": "24h"}
    yield "/v1/batches", "/v1/batches", {"json": file}
    samples = upload(client, greetings())
    jobs = "/v1/fine_tuning/jobs"
    steps = {"training_steps": 1, "learning_rate": 0.01}
    mistral = {"model": "chat", "training_files": [samples], "hyperparameters": steps, "auto_start": False}
    yield jobs, jobs, {"json": mistral, "headers": MISTRAL}
    yield jobs, jobs, {"json": {"model": "chat", "training_file": samples}}


def test_a_retry_has_the_first_answer_and_makes_nothing(client: TestClient) -> None:
    for listed, path, given in creates(client):
        headers = {**given.pop("headers", {}), **key()}
        before = len(client.get(listed).json()["data"])
        answers = [client.post(path, headers=headers, **given) for _ in range(3)]
        first = answers[0]
        assert first.status_code == 200, (path, first.text)
        assert "idempotent-replayed" not in first.headers
        for again in answers[1:]:
            assert (again.status_code, again.content) == (first.status_code, first.content), path
            assert again.headers["idempotent-replayed"] == "true"
            assert again.headers["content-type"] == first.headers["content-type"]
        assert len(client.get(listed).json()["data"]) == before + 1
        other = client.post(path, headers={**headers, **key()}, **given)
        assert other.json()["id"] != first.json()["id"], "another key makes another"


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_response_is_made_and_kept_once(client: TestClient, is_streamed: bool) -> None:
    headers = key()
    body = {**RESPONSE, "stream": is_streamed}
    first, again = (client.post("/v1/responses", json=body, headers=headers) for _ in range(2))
    assert first.status_code == 200
    assert (again.content, again.headers["content-type"]) == (first.content, first.headers["content-type"])
    assert again.headers["idempotent-replayed"] == "true"
    changed = client.post("/v1/responses", json={**body, "seed": 2}, headers=headers)
    assert changed.json()["code"] == "idempotency_key_reused"
    twice = [client.post("/v1/responses", json={**body, "store": False}, headers=key()) for _ in range(2)]
    assert all(one.headers["x-ignored-headers"] == "idempotency-key" for one in twice)


def test_a_key_of_another_request_is_refused(client: TestClient) -> None:
    headers = key()
    assert client.post("/v1/files", headers=headers, **form("one")).status_code == 200
    for changed in (form("two"), form("one", purpose="ocr"), form("one", expiry="3")):
        refused = client.post("/v1/files", headers=headers, **changed)
        assert (refused.status_code, refused.json()["code"]) == (422, "idempotency_key_reused")
        assert refused.json()["detail"][0]["loc"] == ["header", "idempotency-key"]
    assert client.post("/v1/files", headers=headers, **form("one")).headers["idempotent-replayed"] == "true"


def test_a_key_is_one_text(client: TestClient) -> None:
    for wrong in (b"", b"x" * 256, b" ", b"a\tb", b"\xe9"):
        answer = client.post("/v1/files", headers={b"idempotency-key": wrong}, **form())
        assert answer.status_code == 400, wrong
        assert "255" in answer.json()["message"]
    for right in ("x" * 255, "a b", "stainless-python-retry-" + str(uuid.uuid4())):
        assert client.post("/v1/files", headers={"idempotency-key": right}, **form()).status_code == 200


def test_two_keys_are_none(server: LiveServer) -> None:
    two = [("idempotency-key", "a"), ("idempotency-key", "b")]
    assert httpx.post(f"{server.url}/v1/files", headers=two, **form()).status_code == 400


def test_what_says_that_the_request_is_wrong_or_comes_too_soon_is_not_kept(client: TestClient) -> None:
    headers = key()
    bad = {"endpoint": CHAT, "requests": [{"custom_id": "a"}]}
    for _ in range(2):
        refused = client.post("/v1/batch/jobs", json=bad, headers=headers)
        assert refused.status_code == 422
        assert "idempotent-replayed" not in refused.headers
    right = {"endpoint": CHAT, "model": "chat", "requests": [{"custom_id": "a", "body": {"messages": HELLO}}]}
    assert client.post("/v1/batch/jobs", json=right, headers=headers).status_code == 200
    headers = key()
    missing = {"input_file_id": str(uuid.uuid4()), "endpoint": CHAT, "completion_window": "24h"}
    first, again = (client.post("/v1/batches", json=missing, headers=headers) for _ in range(2))
    assert (first.status_code, again.content) == (404, first.content)
    assert again.headers["idempotent-replayed"] == "true", "it was looked for: that is an answer"


def test_a_key_belongs_to_its_owner_and_route(client: TestClient, checkpoints: Any, tmp_path: Path) -> None:
    headers = key()
    assert client.post("/v1/files", headers=headers, **form()).status_code == 200
    inline = {"endpoint": CHAT, "model": "chat", "requests": [{"custom_id": "a", "body": {"messages": HELLO}}]}
    assert client.post("/v1/batch/jobs", json=inline, headers=headers).status_code == 200
    with serving({"chat": checkpoints["chat"]}, tmp_path) as keyed:
        database = keyed.app.state.services.database  # type: ignore[attr-defined]
        owners = ("wind", "rain", "wind")
        tokens = [create_key(database, KeyOptions(f"k{n}", owner, SCOPES))[1] for n, owner in enumerate(owners)]
        ids = [
            keyed.post("/v1/files", headers={**headers, "authorization": f"Bearer {token}"}, **form()).json()["id"]
            for token in tokens
        ]
    assert ids[0] == ids[2] != ids[1]


def test_changes_are_made_once_too(client: TestClient) -> None:
    samples = upload(client, greetings())
    steps = {"training_steps": 1, "learning_rate": 0.01}
    body = {"model": "chat", "training_files": [samples], "hyperparameters": steps, "auto_start": False}
    job = client.post("/v1/fine_tuning/jobs", json=body, headers=MISTRAL).json()
    for change in ("start", "cancel"):
        headers = {**MISTRAL, **key()}
        path = f"/v1/fine_tuning/jobs/{job['id']}/{change}"
        first, again = (client.post(path, headers=headers) for _ in range(2))
        assert (first.status_code, again.content) == (200, first.content), first.text
        assert again.headers["idempotent-replayed"] == "true"
    inline = {"endpoint": CHAT, "model": "chat", "requests": [{"custom_id": "a", "body": {"messages": HELLO}}]}
    for path in ("/v1/batch/jobs", "/v1/batches"):
        batch = client.post("/v1/batch/jobs", json=inline).json()
        headers = key()
        first, again = (client.post(f"{path}/{batch['id']}/cancel", headers=headers) for _ in range(2))
        assert first.content == again.content


def test_where_a_key_has_no_effect_the_answer_says_so(client: TestClient) -> None:
    body = {"model": "chat", "messages": HELLO, "max_tokens": 1}
    for path, given in ((CHAT, body), ("/v1/embeddings", {"model": "chat", "input": "a"})):
        assert client.post(path, json=given, headers=key()).headers["x-ignored-headers"] == "idempotency-key"
        assert "x-ignored-headers" not in client.post(path, json=given).headers
    assert "x-ignored-headers" not in client.post("/v1/files", headers=key(), **form()).headers


def test_retries_at_the_same_time_wait_for_the_first(server: LiveServer) -> None:
    headers = key()
    body = {**RESPONSE, "max_output_tokens": 200, "ignore_eos": True}
    found: list[tuple[bytes, bool]] = []

    def ask() -> None:
        answer = httpx.post(f"{server.url}/v1/responses", json=body, headers=headers, timeout=60)
        found.append((answer.content, "idempotent-replayed" in answer.headers))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({content for content, _ in found}) == 1
    assert sorted(is_again for _, is_again in found) == [False, *[True] * 5]


def test_a_stainless_client_that_retries_makes_one(server: LiveServer) -> None:
    """OpenAI's own client sends no key unless told to; others that are made by the same generator send one with each
    request, the same for its retries. Its connection breaks after the server has done the work."""
    keys: list[str] = []

    class Breaking(httpx.HTTPTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            answer = super().handle_request(request)
            if request.method == "POST":
                keys.append(request.headers["idempotency-key"])
                if len(keys) % 3:
                    answer.read()
                    raise httpx.ReadError("the connection broke", request=request)
            return answer

    broken: Any = httpx.Client(transport=Breaking())
    client = openai.OpenAI(api_key="x", base_url=f"{server.url}/v1", max_retries=3, http_client=broken)
    client._idempotency_header = "Idempotency-Key"
    before = {file.id for file in client.files.list()}
    made = client.files.create(file=("a.txt", b"once"), purpose="user_data")
    assert {file.id for file in client.files.list()} - before == {made.id}
    assert len(keys) == 3
    assert len(set(keys)) == 1
    assert keys[0].startswith("stainless-python-retry-")
    response = client.responses.create(model="chat", input="x", max_output_tokens=3)
    assert client.responses.retrieve(response.id).id == response.id
    assert len(set(keys)) == 2
    client.close()

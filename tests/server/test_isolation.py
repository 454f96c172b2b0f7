"""Two tenants: nothing of the one is seen, changed or felt by the other, on any route and with any verb."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

from tests.server.in_process import HELLO, serving
from tramontane.server.app import ROUTERS
from tramontane.server.keys import SCOPES, KeyOptions, create_key

OF_EVERYBODY = {"name", "model_id", "rest"}
"""Parameters of paths that name nothing of a tenant's: files of the API pages, models, what is not implemented."""
LINES = json.dumps({"custom_id": "a", "body": {"messages": HELLO, "max_tokens": 1}})
Headers = dict[str, str]


@pytest.fixture(scope="module")
def client(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with serving({"chat": checkpoints["chat"]}, tmp_path_factory.mktemp("tenants")) as client:
        yield client


def key(client: TestClient, name: str, owner: str | None = None) -> Headers:
    database = client.app.state.services.database  # type: ignore[attr-defined]
    token = create_key(database, KeyOptions(name, owner=owner, scopes=SCOPES))[1]
    return {"authorization": f"Bearer {token}"}


def objects_of(client: TestClient, headers: Headers) -> dict[str, str]:
    """One object for each parameter that paths have."""
    form = {"file": ("a.jsonl", LINES)}
    file_id = client.post("/v1/files", files=form, data={"purpose": "batch"}, headers=headers).json()["id"]
    body = {"endpoint": "/v1/chat/completions", "input_files": [file_id], "model": "chat"}
    job_id = client.post("/v1/batch/jobs", json=body, headers=headers).json()["id"]
    question = {"model": "chat", "input": "x", "max_output_tokens": 1}
    response_id = client.post("/v1/responses", json=question, headers=headers).json()["id"]
    return {"file_id": file_id, "job_id": job_id, "batch_id": job_id, "response_id": response_id}


def filled(path: str, ids: dict[str, str]) -> str:
    return re.sub(r"\{(\w+)[^}]*\}", lambda found: ids[found[1]], path)


def state_of(client: TestClient, made: dict[str, str], headers: Headers) -> list[Any]:
    until = time.monotonic() + 60
    while (job := client.get(f"/v1/batch/jobs/{made['job_id']}", headers=headers).json())["status"] != "SUCCESS":
        assert time.monotonic() < until, job
        time.sleep(0.05)
    kept = client.get(f"/v1/responses/{made['response_id']}", headers=headers).json()
    return [job, client.get(f"/v1/files/{made['file_id']}", headers=headers).json(), kept]


def test_every_verb_on_every_object_of_another(client: TestClient) -> None:
    alice, bob = key(client, "a"), key(client, "b")
    made = objects_of(client, alice)
    before = state_of(client, made, alice)
    num_checked = 0
    for router in ROUTERS:
        for route in router.routes:
            assert isinstance(route, APIRoute)
            parameters = set(re.findall(r"\{(\w+)", route.path)) - OF_EVERYBODY
            if not parameters:
                continue
            assert parameters <= set(made), f"{route.path}: who owns what {parameters} name?"
            for method in sorted(route.methods or ()):
                foreign, missing = (
                    client.request(method, filled(route.path, ids), headers=bob)
                    for ids in (made, {name: value[::-1] for name, value in made.items()})
                )
                assert foreign.status_code == missing.status_code, (method, route.path)
                assert foreign.status_code in (403, 404), (method, route.path, foreign.text)
                assert foreign.text.replace(made["file_id"], "") == missing.text.replace(made["file_id"][::-1], "")
                num_checked += 1
    assert num_checked >= 9
    for path in ("/v1/files", "/v1/batch/jobs", "/v1/batches"):
        assert client.get(path, headers=bob).json()["data"] == []
        assert len(client.get(path, headers=alice).json()["data"]) > 0
    for name in made.values():
        assert name not in client.get("/metrics", headers=bob).text
    assert state_of(client, made, alice) == before


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_prompts_cached_for_one_key_do_not_help_another(client: TestClient, path: str) -> None:
    """Each key has a salt of its own, also beside another of the same owner; what is not reused cannot be timed."""
    text = f"{path} a long question about the wind of the north " * 15
    body: dict[str, Any] = {"model": "chat", "max_tokens": 1}
    body |= {"prompt": text} if path == "/v1/completions" else {"messages": [{"role": "user", "content": text}]}

    def cached_tokens(headers: Headers) -> int:
        answer = client.post(path, json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        return int(answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"])

    alice, bob, alice_too = key(client, "a", "alice"), key(client, "b"), key(client, "c", "alice")
    assert cached_tokens(alice) == 0
    assert cached_tokens(alice) > 64
    for other in (bob, alice_too):
        assert cached_tokens(other) == 0
    for option in ({"prompt_cache_key": "x"}, {"cache_salt": "x"}):  # no field of the request chooses the salt
        answer = client.post(path, json={**body, **option}, headers=key(client, "d"))
        assert answer.status_code == 422 or answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"] == 0

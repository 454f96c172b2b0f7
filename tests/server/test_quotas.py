"""Quotas: what a key may have stored and under way, refused beyond it, and never gone over by haste."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from openai import APIStatusError, OpenAI
from starlette.types import Scope

from tests.server.in_process import HELLO, MISTRAL, serving
from tests.server.rows import add_file, add_job, fine_tuned_model
from tramontane.cli.main import run
from tramontane.errors import ConfigError
from tramontane.server.errors import ApiError
from tramontane.server.files.files import Files
from tramontane.server.guard import AT_END
from tramontane.server.keys import KeyOptions, create_key, limit_key, list_keys
from tramontane.server.quotas import Quotas
from tramontane.server.routes import responses
from tramontane.server.running_requests import RunningRequests
from tramontane.server.settings import ServerSettings
from tramontane.server.state import State, open_state
from tramontane.server.store.contents import ContentStore
from tramontane.server.store.database import Database, open_database
from tramontane.server.store.tables import File, FineTuningJob, Key


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quotas")


@pytest.fixture(scope="module")
def client(checkpoints: dict[str, Path], home: Path) -> Iterator[TestClient]:
    with serving({"chat": checkpoints["chat"]}, home, max_files=3) as found:
        yield found


def services(client: TestClient) -> Any:
    return client.app.state.services  # type: ignore[attr-defined]


def key(client: TestClient, **options: Any) -> dict[str, str]:
    _, token = create_key(services(client).database, KeyOptions("wind", **options))
    return {"authorization": f"Bearer {token}"}


def upload(client: TestClient, headers: dict[str, str], num_bytes: int = 10) -> Any:
    form: dict[str, Any] = {"files": {"file": ("a.txt", b"x" * num_bytes)}, "data": {"purpose": "user_data"}}
    return client.post("/v1/files", **form, headers=headers)


def batch(client: TestClient, headers: dict[str, str]) -> Any:
    lines = [
        {"custom_id": str(n), "body": {"messages": HELLO, "max_tokens": 200, "temperature": 0.0}} for n in range(500)
    ]
    body = {"model": "chat", "endpoint": "/v1/chat/completions", "requests": lines}
    return client.post("/v1/batch/jobs", json=body, headers=headers)


def message_of(response: Any, status: int) -> str:
    """The same in both APIs' places."""
    assert response.status_code == status, response.text
    body = response.json()
    assert body["code"] == body["error"]["code"] == "quota_exceeded"
    assert body["message"] == body["error"]["message"]
    return str(body["message"])


def test_files_beyond_the_keys_quota_are_refused_until_some_are_deleted(client: TestClient) -> None:
    headers = key(client, max_files=2)
    first = upload(client, headers)
    assert [first.status_code, upload(client, headers).status_code] == [200, 200]
    message = message_of(upload(client, headers | MISTRAL), 403)
    assert "the quota of files is reached: 2 of 2 are used" in message
    assert "tramontane keys limit" in message
    assert client.delete(f"/v1/files/{first.json()['id']}", headers=headers).status_code == 200
    assert upload(client, headers).status_code == 200


def test_a_key_without_a_quota_has_the_servers(client: TestClient) -> None:
    headers = key(client)
    assert [upload(client, headers).status_code for _ in range(4)] == [200, 200, 200, 403]


def test_keys_of_one_owner_are_counted_together(client: TestClient) -> None:
    small, large = key(client, owner="alice", max_files=1), key(client, owner="alice", max_files=5)
    assert upload(client, large).status_code == 200
    assert "1 of 1 are used" in message_of(upload(client, small), 403)
    assert upload(client, large).status_code == 200
    assert upload(client, key(client, owner="bob", max_files=1)).status_code == 200


def test_bytes_are_refused_before_they_are_taken_in(client: TestClient, home: Path) -> None:
    headers = key(client, max_stored_bytes=100_000)
    assert upload(client, headers, 60_000).status_code == 200
    assert "58.6 KiB of 97.7 KiB are used" in message_of(upload(client, headers, 60_000), 403)

    def never_read() -> Iterator[bytes]:
        yield b"--b\r\n"
        raise AssertionError("the body was read")

    declared = {"content-length": "50000000", "content-type": "multipart/form-data; boundary=b"}
    message_of(client.post("/v1/files", content=never_read(), headers=headers | declared), 403)
    assert not list((home / "incoming").iterdir())


def test_unfinished_batches_and_what_they_keep_count(client: TestClient) -> None:
    headers = key(client, max_batches=1)
    made = batch(client, headers)
    assert made.status_code == 200
    refused = batch(client, headers)
    assert "the quota of unfinished batches is reached: 1 of 1" in message_of(refused, 429)
    assert int(refused.headers["retry-after"]) > 0
    path = f"/v1/batch/jobs/{made.json()['id']}"
    assert client.post(f"{path}/cancel", headers=headers).status_code == 200
    until = time.monotonic() + 60
    while client.get(path, headers=headers).json()["status"] != "CANCELLED" and time.monotonic() < until:
        time.sleep(0.1)
    again = batch(client, headers)
    assert again.status_code == 200
    client.post(f"/v1/batch/jobs/{again.json()['id']}/cancel", headers=headers)
    assert "the quota of stored bytes" in message_of(batch(client, key(client, max_stored_bytes=1000)), 403)


def test_kept_responses_count_until_they_are_deleted(client: TestClient) -> None:
    headers = key(client, max_stored_bytes=50_000)

    def respond(**options: Any) -> Any:
        body = {"model": "chat", "input": "x" * 300, "instructions": "y", "max_output_tokens": 1, **options}
        return client.post("/v1/responses", json=body, headers=headers)

    kept = []
    while (made := respond(metadata={"a": "b" * 500})).status_code == 200:
        kept.append(made.json()["id"])
        assert len(kept) < 60
    message = message_of(made, 403)
    assert "the quota of stored bytes is reached" in message
    assert "kept responses" in message
    assert respond(store=False).status_code == 200
    for response_id in kept:
        assert client.delete(f"/v1/responses/{response_id}", headers=headers).status_code == 200
    assert respond().status_code == 200


def test_a_response_that_cannot_be_kept_is_refused_before_it_is_computed(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = key(client, max_stored_bytes=0)
    body = {"model": "chat", "input": "x", "max_output_tokens": 5}
    monkeypatch.setattr(responses, "read_conversation", None)  # would be answered 500
    for options in ({}, {"stream": True}):
        message_of(client.post("/v1/responses", json=body | options, headers=headers), 403)


def test_openai_sees_the_message(client: TestClient) -> None:
    headers = key(client, max_files=0)
    openai = OpenAI(
        api_key=headers["authorization"].split()[1], base_url="http://localhost/v1", http_client=client, max_retries=0
    )
    with pytest.raises(APIStatusError) as error:
        openai.files.create(file=("a.txt", b"x"), purpose="user_data")
    assert error.value.code == "quota_exceeded"
    assert "0 of 0 are used" in error.value.message


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    opened = open_state(ServerSettings(state_dir=tmp_path / "state", max_fine_tuning_jobs=2, max_models=3))
    yield opened
    opened.database.close()


def test_fine_tuning_jobs_and_the_models_they_will_make_count(state: State) -> None:
    add_job(state)
    second = add_job(state)
    with pytest.raises(ApiError, match="unfinished fine-tuning jobs is reached: 2 of 2") as error:
        add_job(state)
    assert error.value.status == 429
    state.fine_tuning_jobs.cancel(second, "local")
    with state.database.write() as session:
        for n in range(2):
            session.add(fine_tuned_model(f"m{n}"))
    with pytest.raises(ApiError, match="fine-tuned models is reached: 3 of 3") as error:
        add_job(state)
    assert error.value.status == 403


def test_haste_goes_over_no_quota(address: str, tmp_path: Path) -> None:
    """Sixteen uploads at once, through two servers, where seven fit."""
    first = open_database(address)
    create_key(first, KeyOptions("wind", owner="local"))
    quotas = Quotas({"max_files": 7})
    servers = [first, open_database(address)]
    stores = [Files(database, ContentStore(tmp_path / "contents"), quotas) for database in servers]
    statuses: list[int] = []
    barrier = threading.Barrier(16)

    def add(files: Files) -> None:
        barrier.wait()
        try:
            add_file(State(files.database, files, None))  # type: ignore[arg-type]
            statuses.append(200)
        except ApiError as error:
            statuses.append(error.status)

    threads = [threading.Thread(target=add, args=(stores[n % 2],)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200] * 7 + [403] * 9
    assert len(stores[0].entries.entries()) == 7  # what was refused is not kept either
    with first.read() as session:
        assert session.query(File).count() == 7
    for database in servers:
        database.close()


def running(most: int | None) -> tuple[RunningRequests, Callable[[Scope], None], Callable[[Scope], None]]:
    requests = RunningRequests(most)
    row = Key(id="a", name="a", owner="a", secret_hash=b"", scopes=[], created_at=0.0)

    def end(scope: Scope) -> None:
        for work in scope[AT_END]:
            work()

    return requests, lambda scope: requests.enter(row, scope), end


def test_requests_at_once_are_counted_until_they_are_over() -> None:
    _, enter, end = running(2)
    scopes: list[Scope] = [{}, {}, {}]
    enter(scopes[0])
    enter(scopes[1])
    with pytest.raises(ApiError, match="2 of 2 requests running") as error:
        enter(scopes[2])
    assert error.value.status == 429
    assert AT_END not in scopes[2]  # what was refused ends nothing
    end(scopes[0])
    enter(scopes[2])


def test_a_key_is_free_again_when_its_requests_have_ended(client: TestClient) -> None:
    """However they end: answered, refused, unknown, streamed."""
    headers = key(client, max_concurrent_requests=1)
    body = {"model": "chat", "messages": HELLO, "max_tokens": 2}
    for sent in (body, body | {"stream": True}, body | {"model": "none"}, {"messages": 1}, body):
        assert client.post("/v1/chat/completions", json=sent, headers=headers).status_code != 429
    assert client.get("/v1/models", headers=headers).status_code == 200
    assert not services(client).gate.running._running


def test_limits_are_set_shown_and_taken_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--state-dir", str(tmp_path)]
    assert run(["keys", "create", "wind", "--max-files", "3", "--max-stored-gib", "0.5", *where]) == 0
    database: Database = open_database(f"sqlite:///{tmp_path}/state.db")
    row = list_keys(database)[0]
    assert (row.max_files, row.max_stored_bytes, row.max_models) == (3, 2**29, None)
    limits = ["--max-files", "default", "--max-models", "0", "--tokens-per-minute", "5"]
    assert run(["keys", "limit", row.id, *limits, *where]) == 0
    row = list_keys(database)[0]
    assert (row.max_files, row.max_stored_bytes, row.max_models, row.tokens_per_minute) == (None, 2**29, 0, 5)
    capsys.readouterr()
    assert run(["keys", "list", *where]) == 0
    assert "0 bytes of 512.0 MiB" in capsys.readouterr().out
    assert run(["keys", "list", "--json", *where]) == 0
    shown = json.loads(capsys.readouterr().out)["keys"][0]
    assert (shown["max_models"], shown["used"]["max_models"]) == (0, 0)
    for wrong in (
        ["limit", row.id],
        ["limit", "0" * 16, "--max-files", "1"],
        ["limit", row.id, "--max-files", "many"],
        ["limit", row.id, "--max-files", "-1"],
        ["limit", row.id, "--max-stored-gib", "inf"],
        ["limit", row.id, "--max-stored-gib", "nan"],
        ["limit", row.id, "--requests-per-minute", "0"],
        ["revoke", row.id, "--max-files", "1"],
    ):
        assert run(["keys", *wrong, *where]) == 2, wrong
    database.close()


def test_settings_and_keys_take_no_senseless_quota() -> None:
    settings: list[dict[str, Any]] = [{"max_files": -1}, {"max_stored_gib": -0.5}, {"max_concurrent_requests": 0}]
    for wrong in settings:
        with pytest.raises(ConfigError):
            ServerSettings(**wrong)
    with pytest.raises(ConfigError, match="max_models"):
        KeyOptions("wind", max_models=-1)


def test_a_limit_reaches_a_running_server(client: TestClient) -> None:
    row, token = create_key(services(client).database, KeyOptions("wind"))
    headers = {"authorization": f"Bearer {token}"}
    assert upload(client, headers).status_code == 200
    limit_key(services(client).database, row.id, {"max_files": 1})
    assert upload(client, headers).status_code == 403


def test_jobs_that_have_ended_do_not_count(state: State) -> None:
    for _ in range(3):
        state.fine_tuning_jobs.cancel(add_job(state), "local")
    with state.database.read() as session:
        assert session.query(FineTuningJob).count() == 3

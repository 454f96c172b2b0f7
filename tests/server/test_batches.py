"""Batches over HTTP: whole journeys of both APIs, what is refused, owners."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.server.in_process import HELLO, MISTRAL, serving
from tests.server.test_openapi import PUBLISHED, validator
from tramontane.llm import AsyncLLM
from tramontane.server.app import BATCH_PRIORITY
from tramontane.server.batch import runner
from tramontane.server.batch.jobs import BatchJobs
from tramontane.server.keys import KeyOptions, create_key

CHAT = "/v1/chat/completions"
ASK: dict[str, Any] = {"messages": HELLO, "max_tokens": 3, "random_seed": 1}
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def client(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with serving({"chat": checkpoints["chat"]}, tmp_path_factory.mktemp("batches")) as client:
        yield client


@pytest.fixture(scope="module")
def tenants(
    checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[TestClient, dict[str, dict[str, str]]]]:
    """A server with the keys of two owners, and one that may do nothing but chat."""
    with serving({"chat": checkpoints["chat"]}, tmp_path_factory.mktemp("tenants")) as client:
        database = client.app.state.services.database  # type: ignore[attr-defined]
        options = (KeyOptions("alice"), KeyOptions("bob"), KeyOptions("chatter", scopes=["inference"]))
        yield client, {o.name: {"authorization": f"Bearer {create_key(database, o)[1]}"} for o in options}


def upload(client: TestClient, lines: Sequence[Mapping[str, Any]], **options: Any) -> str:
    content = "\n".join(map(json.dumps, lines))
    answer = client.post("/v1/files", files={"file": ("b.jsonl", content)}, data={"purpose": "batch"}, **options)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def create(client: TestClient, body: Mapping[str, Any], path: str = "/v1/batch/jobs", **options: Any) -> dict[str, Any]:
    answer = client.post(path, json=dict(body), **options)
    assert answer.status_code == 200, answer.text
    made: dict[str, Any] = answer.json()
    return made


def ended(client: TestClient, path: str, **options: Any) -> dict[str, Any]:
    started = time.monotonic()
    while True:
        job: dict[str, Any] = client.get(path, **options).json()
        if job["status"].upper() not in ("QUEUED", "RUNNING", "CANCELLATION_REQUESTED", "IN_PROGRESS", "CANCELLING"):
            return job
        assert time.monotonic() - started < PATIENCE_S
        time.sleep(0.02)


def lines_of(client: TestClient, file_id: str, **options: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in client.get(f"/v1/files/{file_id}/content", **options).text.splitlines()]


def test_inline_requests(client: TestClient) -> None:
    requests = [{"custom_id": f"q{n}", "body": ASK if n != 2 else {**ASK, "top_p": 7}} for n in range(5)]
    made = create(client, {"endpoint": CHAT, "model": "chat", "requests": requests, "metadata": {"kind": "inline"}})
    assert (made["object"], made["total_requests"], made["input_files"]) == ("batch", 5, [])
    job = ended(client, f"/v1/batch/jobs/{made['id']}")
    assert (job["status"], job["succeeded_requests"], job["failed_requests"]) == ("SUCCESS", 4, 1)
    assert job["completed_requests"] == 5
    assert job["outputs"] is None
    assert job["errors"] == [{"message": "top_p: Input should be less than or equal to 1", "count": 1}]
    good, bad = lines_of(client, job["output_file"]), lines_of(client, job["error_file"])
    assert [line["custom_id"] for line in good] == ["q0", "q1", "q3", "q4"]
    alone = client.post(CHAT, json={**ASK, "model": "chat"}, headers=MISTRAL).json()["choices"]
    assert all(line["response"]["body"]["choices"] == alone for line in good)  # company changes nothing
    assert (bad[0]["custom_id"], bad[0]["response"]["status_code"]) == ("q2", 422)
    assert bad[0]["response"]["body"]["param"] == "top_p"
    inline = client.get(f"/v1/batch/jobs/{made['id']}", params={"inline": True}).json()
    assert inline["outputs"] == good + bad
    file = client.get(f"/v1/files/{job['output_file']}").json()
    assert (file["purpose"], file["sample_type"], file["source"], file["num_lines"]) == (
        *("batch", "batch_result", "mistral"), 4
    )  # fmt: skip


def test_requests_of_files_live_on_when_the_files_are_deleted(client: TestClient) -> None:
    first = upload(client, [{"custom_id": "a", "body": {**ASK, "model": "chat"}}, {"body": {**ASK, "model": "none"}}])
    second = upload(client, [{"custom_id": "b", "body": {**ASK, "model": "mistral-small-latest"}}])
    made = create(client, {"endpoint": CHAT, "input_files": [first, second], "timeout_hours": 1})
    for file_id in (first, second):
        assert client.delete(f"/v1/files/{file_id}").status_code == 200
    job = ended(client, f"/v1/batch/jobs/{made['id']}")
    assert job["input_files"] == [first, second]
    assert [line["custom_id"] for line in lines_of(client, job["output_file"])] == ["a", "b"]
    (wrong,) = lines_of(client, job["error_file"])
    assert (wrong["custom_id"], wrong["response"]["body"]["type"]) == ("1", "invalid_model")


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("/v1/embeddings", {"input": ["wind", "sea"]}),
        ("/v1/moderations", {"input": "wind"}),
        ("/v1/chat/moderations", {"input": HELLO}),
        ("/v1/classifications", {"input": "wind"}),
        ("/v1/chat/classifications", {"input": {"messages": HELLO}}),
        ("/v1/completions", {"prompt": "The wind", "max_tokens": 2}),
        ("/v1/responses", {"input": "wind", "max_output_tokens": 2}),
    ],
)
def test_every_endpoint(client: TestClient, endpoint: str, body: dict[str, Any]) -> None:
    made = create(client, {"endpoint": endpoint, "model": "chat", "requests": [{"body": body}]})
    job = ended(client, f"/v1/batch/jobs/{made['id']}")
    assert (job["status"], job["succeeded_requests"]) == ("SUCCESS", 1), client.get(
        f"/v1/batch/jobs/{made['id']}?inline=true"
    ).text


def test_the_journey_of_openai(client: TestClient) -> None:
    lines = [
        {"custom_id": f"r{n}", "method": "POST", "url": CHAT, "body": {"model": "chat", "messages": HELLO, **more}}
        for n, more in enumerate(({"max_completion_tokens": 2, "seed": 1}, {"temperature": 99}))
    ]
    file_id = upload(client, lines)
    body = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h", "metadata": {"by": "openai"}}
    body["output_expires_after"] = {"anchor": "created_at", "seconds": 7200}
    made = create(client, body, "/v1/batches")
    assert (made["status"], made["input_file_id"], made["completion_window"]) == ("in_progress", file_id, "24h")
    batch = ended(client, f"/v1/batches/{made['id']}")
    assert (batch["status"], batch["metadata"]) == ("completed", {"by": "openai"})
    assert batch["request_counts"] == {"total": 2, "completed": 1, "failed": 1}
    assert batch["completed_at"] >= batch["in_progress_at"] >= batch["created_at"]
    results = client.get(f"/v1/files/{batch['output_file_id']}").json()
    assert results["expires_at"] - results["created_at"] == pytest.approx(7200, abs=1)
    (good,) = lines_of(client, batch["output_file_id"])
    assert good["response"]["body"]["usage"]["completion_tokens"] == 2
    (bad,) = lines_of(client, batch["error_file_id"])
    assert (bad["custom_id"], bad["response"]["status_code"]) == ("r1", 422)
    assert client.get("/v1/batches", params={"limit": 1}).json()["data"][0]["id"] == made["id"]
    assert client.get(f"/v1/batch/jobs/{made['id']}").json()["status"] == "SUCCESS"  # the same batch
    assert client.post(f"/v1/batches/{made['id']}/cancel").status_code == 409


def test_lines_that_are_wrong_are_named(client: TestClient) -> None:
    body = {**ASK, "model": "chat"}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": body}
    first = upload(client, [{"custom_id": "a", "body": body}, {"custom_id": "b", "body": ASK}])
    second = upload(client, [{"custom_id": "c", "body": body}, {"custom_id": "a", "body": body}])
    foreign = upload(client, [{"body": {**ASK, "model": "coder"}}])
    other = upload(client, [{**line, "url": CHAT, "custom_id": "b"}, line])
    cases = [
        ([first], {}, f"file {first}: line 2: body.model is missing, and the batch names no model"),
        ([second, first], {"model": "chat"}, f"file {first}: line 1: custom_id 'a' is used twice"),
        ([other], {}, f"file {other}: line 2: url is '/v1/embeddings', but the batch is for {CHAT}"),
        ([foreign], {"model": "chat"}, f"file {foreign}: line 1: body.model is another than the batch's"),
    ]
    for files, more, message in cases:
        answer = client.post("/v1/batch/jobs", json={"endpoint": CHAT, "input_files": files, **more})
        assert answer.status_code == 422
        assert answer.json()["message"].startswith(message)
        assert answer.json()["detail"][0]["loc"][:2] == ["body", "input_files"]
    requests = [{"body": body}, {"body": {**body, "stream": True}}, {"body": ASK}]
    answer = client.post("/v1/batch/jobs", json={"endpoint": CHAT, "requests": requests}).json()
    assert answer["message"] == "requests: entry 1: body: stream must be false in a batch (2 are invalid in all)"
    assert [entry["loc"] for entry in answer["detail"]] == [["body", "requests", 1], ["body", "requests", 2]]


def test_the_batch_and_its_requests_may_name_one_model_differently(client: TestClient) -> None:
    """As Mistral's own example does."""
    names = ("mistral-medium-latest", "chat", "mistral-small-latest")
    requests: list[dict[str, Any]] = [{"custom_id": name, "body": {**ASK, "model": name}} for name in names]
    requests[1]["body"]["max_token"] = 5
    made = create(client, {"model": "mistral-small-latest", "endpoint": CHAT, "requests": requests})
    job = ended(client, f"/v1/batch/jobs/{made['id']}")
    assert (job["status"], job["succeeded_requests"]) == ("SUCCESS", 3)
    models = {line["response"]["body"]["model"] for line in lines_of(client, job["output_file"])}
    assert models == {"mistral-small-latest"}
    assert [line["response"]["body"].get("x-ignored-fields") for line in lines_of(client, job["output_file"])] == [
        None,
        "max_token",
        None,
    ]
    for name in ("none", "coder", ["chat"]):
        body = {"model": "chat", "endpoint": CHAT, "requests": [{"body": {**ASK, "model": name}}]}
        answer = client.post("/v1/batch/jobs", json=body)
        assert answer.status_code == 422
        assert "is another than the batch's model 'chat'" in answer.json()["message"]


ONE = [{"body": ASK}]


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({}, 422, "endpoint"),
        ({"endpoint": "/v1/ocr", "requests": ONE}, 422, "endpoint"),
        ({"endpoint": "/api/documents/summary", "requests": ONE}, 422, "endpoint"),
        ({"endpoint": CHAT}, 422, None),
        ({"endpoint": CHAT, "requests": ONE, "input_files": ["x"]}, 422, None),
        ({"endpoint": CHAT, "input_files": ["x"]}, 404, "file_id"),
        ({"endpoint": CHAT, "input_files": ["0" * 8 + "-0000" * 3 + "-" + "0" * 12]}, 404, "file_id"),
        ({"endpoint": CHAT, "requests": ONE, "model": "none"}, 400, "model"),
        ({"endpoint": CHAT, "requests": ONE, "model": "chat", "timeout_hours": 0}, 422, "timeout_hours"),
        ({"endpoint": CHAT, "requests": ONE, "model": "chat", "timeout_hours": 169}, 422, "timeout_hours"),
        ({"endpoint": CHAT, "requests": ONE, "model": "chat", "agent_id": "ag_1"}, 422, "agent_id"),
        ({"endpoint": CHAT, "requests": ONE, "model": "chat", "wind": 1}, 422, "wind"),
        ({"endpoint": CHAT, "requests": ONE, "model": "chat", "metadata": {"a": 1}}, 422, "metadata.a"),
        ({"endpoint": CHAT, "requests": ONE, "model": "chat", "metadata": {"a": "x\0"}}, 422, "metadata.a"),
        ({"endpoint": CHAT, "requests": [{"body": []}], "model": "chat"}, 422, "requests.0.body"),
    ],
)
def test_what_is_refused(client: TestClient, body: dict[str, Any], status: int, param: str | None) -> None:
    before = client.get("/v1/batch/jobs").json()["total"]
    answer = client.post("/v1/batch/jobs", json=body)
    assert (answer.status_code, answer.json()["param"]) == (status, param), answer.text
    assert client.get("/v1/batch/jobs").json()["total"] == before


def test_a_file_for_something_else_is_refused(client: TestClient) -> None:
    answer = client.post("/v1/files", files={"file": ("a", b"wind")}, data={"purpose": "user_data"}).json()
    for path, body in (
        ("/v1/batch/jobs", {"endpoint": CHAT, "model": "chat", "input_files": [answer["id"]]}),
        ("/v1/batches", {"endpoint": CHAT, "input_file_id": answer["id"], "completion_window": "24h"}),
    ):
        refused = client.post(path, json=body)
        assert refused.status_code == 422
        assert "upload it with purpose batch" in refused.json()["message"]
    for window in ("", "24", "0h", "169h", "1d"):
        body = {"endpoint": CHAT, "input_file_id": answer["id"], "completion_window": window}
        assert client.post("/v1/batches", json=body).status_code == 422


def test_listing(client: TestClient) -> None:
    kinds = ("x", "y", "x")
    ids = [
        create(client, {"endpoint": CHAT, "model": "chat", "requests": ONE, "metadata": {"job_type": kind}})["id"]
        for kind in kinds
    ]

    def found(**query: Any) -> list[str]:
        answer = client.get("/v1/batch/jobs", params=query)
        assert answer.status_code == 200, answer.text
        return [job["id"] for job in answer.json()["data"]]

    assert found(page_size=3) == ids[::-1]
    assert found(job_type="x") == found(metadata=json.dumps({"job_type": "x"})) == [ids[2], ids[0]]
    assert found(job_type="z") == found(agent_id="ag_1") == found(created_after="2100-01-01T00:00:00Z") == []
    assert found(job_type="y", model="chat", created_by_me=True, created_after="2020-01-01T00:00:00Z") == [ids[1]]
    for job_id in ids:
        ended(client, f"/v1/batch/jobs/{job_id}")
    assert set(ids) <= set(found(status=["SUCCESS", "FAILED"]))
    assert found(status="QUEUED") == []
    for query in ({"status": "wind"}, {"page": -1}, {"order_by": "x"}, {"metadata": "["}, {"metadata": '{"a": 1}'},
                  {"created_after": "x"}, {'a"b': "c"}, {"a" * 100: "c"},
                  {f"a{n}": "c" for n in range(17)}, {"metadata": json.dumps({f"a{n}": "c" for n in range(1000)})},
                  {"metadata": '{"a": "\\ud800"}'}, {"a": "\0"}, {"created_after": "0001-01-01T00:00:00"}):  # fmt: skip
        assert client.get("/v1/batch/jobs", params=query).status_code == 422, query
        tuning = {f"metadata[{name}]" if name.startswith("a") else name: value for name, value in query.items()}
        if not tuning.keys() & {"order_by", "metadata"}:
            assert client.get("/v1/fine_tuning/jobs", params=tuning).status_code == 422, tuning


def test_batches_stand_behind_waiting_users(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    priorities: list[int] = []
    start, embed = AsyncLLM.start, AsyncLLM.embed_token_ids

    async def noted_start(self: AsyncLLM, *arguments: Any, **options: Any) -> Any:
        priorities.append(options["priority"])
        return await start(self, *arguments, **options)

    async def noted_embed(self: AsyncLLM, *arguments: Any, **options: Any) -> Any:
        priorities.append(options["priority"])
        return await embed(self, *arguments, **options)

    monkeypatch.setattr(AsyncLLM, "start", noted_start)
    monkeypatch.setattr(AsyncLLM, "embed_token_ids", noted_embed)
    for endpoint, body in ((CHAT, ASK), ("/v1/embeddings", {"input": "wind"}), ("/v1/moderations", {"input": "wind"})):
        priorities.clear()
        assert client.post(endpoint, json={**body, "model": "chat"}).status_code == 200
        assert set(priorities) == {0}
        priorities.clear()
        job = create(client, {"endpoint": endpoint, "model": "chat", "requests": [{"body": body}]})
        assert ended(client, f"/v1/batch/jobs/{job['id']}")["succeeded_requests"] == 1
        assert set(priorities) == {BATCH_PRIORITY}


def test_what_is_said_stays_out_of_the_log(
    client: TestClient, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even when the database refuses the rows that hold it."""
    monkeypatch.setattr(runner, "RETRY_S", 0.05)
    monkeypatch.setattr(runner, "CHECK_S", 0.05)
    append = BatchJobs.append
    twice = iter([True])

    def refused_once(self: BatchJobs, job_id: str, holder: str, results: Sequence[Mapping[str, object]]) -> None:
        append(self, job_id, holder, [*results, *results] if next(twice, False) else results)

    monkeypatch.setattr(BatchJobs, "append", refused_once)
    canary = "canary-5d1f"
    body = {**ASK, "messages": [{"role": "user", "content": canary}]}
    requests = [{"custom_id": canary, "body": body}, {"custom_id": "wrong", "body": {**body, "top_p": 9}}]
    with caplog.at_level("DEBUG", "tramontane"):
        made = create(client, {"endpoint": CHAT, "model": "chat", "requests": requests, "metadata": {"a": canary}})
        job = ended(client, f"/v1/batch/jobs/{made['id']}")
    assert (job["succeeded_requests"], job["failed_requests"]) == (1, 1)
    assert "IntegrityError" in caplog.text
    assert canary not in caplog.text
    assert canary not in client.get("/metrics").text


def test_deleting(client: TestClient) -> None:
    made = create(client, {"endpoint": CHAT, "model": "chat", "requests": ONE})
    path = f"/v1/batch/jobs/{made['id']}"
    job = ended(client, path)
    assert client.delete(path).json() == {"id": made["id"], "object": "batch", "deleted": True}
    assert client.get(path).status_code == 404
    assert len(lines_of(client, job["output_file"])) == 1  # it stays
    assert client.delete(f"/v1/files/{job['output_file']}").status_code == 200


def test_outputs_whose_file_was_deleted(client: TestClient) -> None:
    made = create(client, {"endpoint": CHAT, "model": "chat", "requests": ONE})
    job = ended(client, f"/v1/batch/jobs/{made['id']}")
    client.delete(f"/v1/files/{job['output_file']}")
    answer = client.get(f"/v1/batch/jobs/{made['id']}", params={"inline": True})
    assert (answer.status_code, answer.json()["code"]) == (404, "file_not_found")


def test_owners_see_their_own_batches_alone(tenants: tuple[TestClient, dict[str, dict[str, str]]]) -> None:
    client, keys = tenants
    alice, bob = keys["alice"], keys["bob"]
    file_id = upload(client, [{"custom_id": "a", "body": {**ASK, "model": "chat"}}], headers=alice)
    made = create(client, {"endpoint": CHAT, "input_files": [file_id]}, headers=alice)
    job = ended(client, f"/v1/batch/jobs/{made['id']}", headers=alice)
    for path in ("/v1/batch/jobs", "/v1/batches"):
        for method, place in (("GET", ""), ("GET", "?inline=true"), ("POST", "/cancel"), ("DELETE", "")):
            if (method, path) == ("DELETE", "/v1/batches"):
                continue
            answers = [
                client.request(method, f"{path}/{job_id}{place}", headers=bob)
                for job_id in (made["id"], made["id"][::-1])
            ]
            assert [answer.status_code for answer in answers] == [404, 404]
            assert answers[0].json() == answers[1].json()
        assert client.get(path, headers=bob).json()["data"] == []
        assert client.get(path, headers=alice).json()["data"][0]["id"] == made["id"]
    assert client.get("/v1/batches", params={"after": made["id"]}, headers=bob).status_code == 404
    for body, path in (
        ({"endpoint": CHAT, "input_files": [file_id], "model": "chat"}, "/v1/batch/jobs"),
        ({"endpoint": CHAT, "input_file_id": file_id, "completion_window": "24h"}, "/v1/batches"),
    ):
        assert client.post(path, json=body, headers=bob).status_code == 404
    assert client.get(f"/v1/files/{job['output_file']}/content", headers=bob).status_code == 404
    assert len(lines_of(client, job["output_file"], headers=alice)) == 1


def test_a_key_needs_the_scope(tenants: tuple[TestClient, dict[str, dict[str, str]]]) -> None:
    client, keys = tenants
    for path in ("/v1/batch/jobs", "/v1/batches"):
        answer = client.get(path, headers=keys["chatter"])
        assert (answer.status_code, answer.json()["code"]) == (403, "missing_scope")


@pytest.mark.parametrize("published", PUBLISHED, ids=lambda path: path.stem)
def test_answers_are_as_published(client: TestClient, published: Path) -> None:
    def judge(route: str, answer: Any) -> dict[str, Any]:
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        validator(published, route).validate(body)
        return body

    lines = json.dumps({"custom_id": "a", "body": ASK})
    form = {"purpose": "batch"}
    file_id = judge("post /v1/files", client.post("/v1/files", files={"file": ("a.jsonl", lines)}, data=form))["id"]
    judge("get /v1/files", client.get("/v1/files", params={"sample_type": "batch_request"}))
    judge("get /v1/files/{file_id}", client.get(f"/v1/files/{file_id}"))
    judge("get /v1/files/{file_id}/url", client.get(f"/v1/files/{file_id}/url"))
    body = {"endpoint": CHAT, "model": "chat", "input_files": [file_id], "metadata": {"a": "b"}}
    job_id = judge("post /v1/batch/jobs", client.post("/v1/batch/jobs", json=body))["id"]
    ended(client, f"/v1/batch/jobs/{job_id}")
    judge("get /v1/batch/jobs/{job_id}", client.get(f"/v1/batch/jobs/{job_id}", params={"inline": True}))
    judge("get /v1/batch/jobs", client.get("/v1/batch/jobs"))
    long = [{"body": {**ASK, "max_tokens": 500}} for _ in range(100)]
    job_id = client.post("/v1/batch/jobs", json={"endpoint": CHAT, "model": "chat", "requests": long}).json()["id"]
    judge("post /v1/batch/jobs/{job_id}/cancel", client.post(f"/v1/batch/jobs/{job_id}/cancel"))
    assert ended(client, f"/v1/batch/jobs/{job_id}")["status"] == "CANCELLED"
    assert 'status="500"' not in client.get("/metrics").text  # what was cancelled did not fail
    judge("delete /v1/files/{file_id}", client.delete(f"/v1/files/{file_id}"))

"""Jobs over HTTP, in this process, the training in one of its own: made, refused, ended, and what becomes of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.server.fine_tuning.making import PATH, conversation, greetings, job_until, moods, upload
from tests.server.in_process import HELLO, MISTRAL, serving
from tramontane.server.keys import KeyOptions, create_key

QUICK = {"training_steps": 12, "learning_rate": 0.01}


@pytest.fixture(scope="module")
def client(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with serving(
        {"chat": checkpoints["chat"]}, tmp_path_factory.mktemp("state"), price_per_hour=2.0, fine_tuning_nice=0
    ) as client:
        yield client


@pytest.fixture(scope="module")
def trained(client: TestClient) -> dict[str, Any]:
    """A job that has ended well."""
    job = make(
        client,
        training_files=[upload(client, greetings())],
        suffix="ahoy",
        validation_files=[upload(client, greetings(4))],
    )
    return job_until(client, job["id"])


def make(client: TestClient, *, params: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    body = {"model": "chat", "hyperparameters": QUICK, **fields}
    answer = client.post(PATH, json=body, params=params)
    assert answer.status_code == 200, answer.text
    made: dict[str, Any] = answer.json()
    return made


def say(client: TestClient, model: str) -> Any:
    body = {"model": model, "messages": HELLO, "temperature": 0, "max_tokens": 8}
    return client.post("/v1/chat/completions", json=body)


def test_a_job_ends_in_a_model_that_answers(client: TestClient, trained: dict[str, Any]) -> None:
    assert trained["status"] == "SUCCESS", trained
    name = trained["fine_tuned_model"]
    assert name.startswith("ft:chat:")
    assert name.split(":")[4] == "ahoy"
    metadata = trained["metadata"]
    assert metadata["train_tokens"] == trained["trained_tokens"]
    [estimated] = [event["data"] for event in trained["events"] if event["name"] == "estimated"]
    assert estimated["memory_bytes"] > 300e6  # the process alone
    assert re.search(
        r"seen [\d.]+ times in 12 updates of about .* minutes and [\d.]+ [MG]B of memory", estimated["message"]
    )
    assert metadata["train_tokens_per_step"] == round(metadata["train_tokens"] / 12)
    assert metadata["cost"] == pytest.approx(metadata["expected_duration_seconds"] / 3600 * 2, rel=0.5, abs=0.001)
    statuses = [event["data"]["status"] for event in trained["events"] if event["name"] == "status-updated"]
    assert statuses == ["QUEUED", "VALIDATING", "STARTED", "RUNNING", "SUCCESS"]
    steps = [each["step_number"] for each in trained["checkpoints"]]
    assert steps == sorted(set(steps))
    assert steps[-1] == 12
    first, last = (trained["checkpoints"][place]["metrics"] for place in (0, -1))
    assert last["valid_loss"] < first["valid_loss"]
    assert last["train_loss"] < first["train_loss"]
    card = client.get(f"/v1/models/{name}").json()
    assert (card["type"], card["root"], card["job"]) == ("fine-tuned", "chat", trained["id"])
    assert say(client, name).json()["choices"] != say(client, "chat").json()["choices"]
    losses = client.get(f"/api/fine_tuning/jobs/{trained['id']}/losses").json()
    assert [step for step, _ in losses["train"]] == list(range(1, 13))
    assert losses["held_out"][-1] == [12, last["valid_loss"]]


def test_a_job_goes_on_from_what_another_has_made(client: TestClient, trained: dict[str, Any]) -> None:
    parent = trained["fine_tuned_model"]
    assert client.get(f"/v1/models/{parent}").json()["capabilities"]["fine_tuning"] is True
    job = make(client, model=parent, training_files=[upload(client, greetings())])
    done = job_until(client, job["id"])
    assert done["status"] == "SUCCESS", done
    assert done["fine_tuned_model"].startswith("ft:chat:")
    assert client.get(f"/v1/models/{done['fine_tuned_model']}").json()["root"] == "chat"
    losses = [client.get(f"/api/fine_tuning/jobs/{each['id']}/losses").json()["train"] for each in (trained, done)]
    assert losses[1][0][1] < losses[0][0][1] / 2  # it begins with what its parent knows
    assert say(client, done["fine_tuned_model"]).status_code == 200
    labels = make(client, model=parent, training_files=[upload(client, moods())])
    classifier = job_until(client, labels["id"])
    assert classifier["status"] == "SUCCESS", classifier
    wrong = make(client, model=classifier["fine_tuned_model"], training_files=[upload(client, greetings())])
    refused = job_until(client, wrong["id"])
    assert refused["status"] == "FAILED_VALIDATION"
    assert "is a classifier's adapter" in [event["data"] for event in refused["events"]][-1]["error"]


def test_a_model_is_renamed_archived_and_deleted(client: TestClient, trained: dict[str, Any]) -> None:
    name = trained["fine_tuned_model"]
    path = f"/v1/fine_tuning/models/{name}"
    changed = client.patch(path, json={"description": "Greets sailors"}).json()
    assert (changed["id"], changed["description"], changed["name"]) == (name, "Greets sailors", None)
    assert client.patch(path, json={"name": "Sailor"}).json()["description"] == "Greets sailors"
    card = client.get(f"/v1/models/{name}").json()
    assert (card["name"], card["description"]) == ("Sailor", "Greets sailors")
    assert client.post(f"{path}/archive").json() == {"id": name, "object": "model", "archived": True}
    assert say(client, name).status_code == 400
    assert client.get(f"/v1/models/{name}").json()["archived"] is True
    assert client.delete(f"{path}/archive").json()["archived"] is False
    assert say(client, name).status_code == 200
    assert client.patch("/v1/fine_tuning/models/ft:none", json={}).status_code == 404
    assert client.delete(f"/v1/models/{name}").json()["deleted"] is True
    assert client.get(f"/v1/models/{name}").status_code == 404
    assert say(client, name).status_code == 400
    assert client.patch(path, json={}).status_code == 404
    assert client.get(f"{PATH}/{trained['id']}").json()["status"] == "SUCCESS"


def test_nothing_starts_until_the_samples_are_sound(client: TestClient) -> None:
    lines: list[dict[str, Any] | str] = [
        *greetings(8),
        {"messages": [{"role": "user", "content": "And then?"}]},
        "nonsense",
        *greetings(8),
    ]
    sound, unsound = upload(client, greetings(4)), upload(client, lines)
    files = [{"file_id": sound, "weight": 2}, {"file_id": unsound}]
    job = job_until(client, make(client, training_files=files)["id"])
    assert job["status"] == "FAILED_VALIDATION"
    problems = [event["data"] for event in job["events"] if event["name"] == "invalid-line"]
    assert [(problem["file_id"], problem["line"]) for problem in problems] == [(unsound, 9), (unsound, 10)]
    assert "assistant" in problems[0]["message"]
    assert "JSON" in problems[1]["message"]
    refused = client.post(
        PATH, json={"model": "chat", "hyperparameters": {}, "training_files": [unsound]}, params={"dry_run": True}
    )
    assert refused.status_code == 422
    assert [entry["loc"][-1] for entry in refused.json()["detail"]] == [9, 10]
    before = client.get(PATH, params={"page": 0}).json()["total"]
    told = make(client, training_files=files, invalid_sample_skip_percentage=0.2, params={"dry_run": True})
    assert told["object"] == "job.metadata"
    assert told["training_steps"] == 12
    assert re.search(r"in 12 updates of about .* and [\d.]+ [MG]B of memory on this machine", told["details"])
    assert told["train_tokens"] == 12 * told["train_tokens_per_step"]
    assert client.get(PATH, params={"page": 0}).json()["total"] == before


def test_a_job_waits_for_its_start_and_can_be_cancelled(client: TestClient) -> None:
    file_id = upload(client, greetings())
    waiting = make(client, training_files=[file_id], auto_start=False, hyperparameters={"training_steps": 100_000})
    assert waiting["status"] == "VALIDATED"
    assert waiting["metadata"]["data_tokens"] > 0
    path = f"{PATH}/{waiting['id']}"
    assert client.post(f"{path}/start").json()["status"] == "STARTED"
    assert job_until(client, waiting["id"], ["RUNNING"])["status"] == "RUNNING"
    assert client.post(f"{path}/start").status_code == 409
    later = make(client, training_files=[file_id])
    assert later["status"] == "STARTED", "one job is trained at a time"
    assert client.post(f"{PATH}/{later['id']}/cancel").json()["status"] == "CANCELLED"
    assert client.post(f"{path}/cancel").json()["status"] == "CANCELLATION_REQUESTED"
    ended = job_until(client, waiting["id"])
    assert ended["status"] == "CANCELLED"
    assert ended["fine_tuned_model"] is None
    assert client.post(f"{path}/cancel").json()["status"] == "CANCELLED"
    found = client.get(PATH, params={"status": "CANCELLED"}).json()["data"]
    assert {job["id"] for job in found} == {waiting["id"], later["id"]}


def test_a_classifier_tells_labels(client: TestClient) -> None:
    targets = [{"name": "mood", "labels": ["glad", "sad"]}, {"name": "topics", "labels": ["days", "rain"]}]
    file_id = upload(client, moods())
    job = make(
        client,
        training_files=[file_id],
        classifier_targets=targets,
        hyperparameters={"training_steps": 60, "learning_rate": 0.01},
    )
    assert job["job_type"] == "classifier"
    ended = job_until(client, job["id"])
    assert ended["status"] == "SUCCESS", ended
    name = ended["fine_tuned_model"]
    assert name.startswith("ft:classifier:chat:")
    texts = ["Day 50 was good", "Day 51 was bad"]
    answer = client.post("/v1/classifications", json={"model": name, "input": texts}).json()
    moods_told = [result["mood"]["scores"] for result in answer["results"]]
    assert [max(scores, key=scores.get) for scores in moods_told] == ["glad", "sad"]
    assert sum(moods_told[0].values()) == pytest.approx(1, abs=1e-5)
    assert answer["results"][0]["topics"]["scores"]["days"] > 0.5
    talk = {"messages": [{"role": "user", "content": texts[0]}]}
    told = client.post("/v1/chat/classifications", json={"model": name, "input": talk}).json()
    assert set(told["results"][0]) == {"mood", "topics"}
    assert say(client, name).status_code == 400, "a classifier does not chat"
    changed = client.patch(f"/v1/fine_tuning/models/{name}", json={"name": "Moods"}).json()
    assert {target["name"]: target["loss_function"] for target in changed["classifier_targets"]} == {
        "mood": "single_class",
        "topics": "multi_class",
    }
    narrow = [{"name": "mood", "labels": ["glad"]}, targets[1]]
    refused = job_until(client, make(client, training_files=[file_id], classifier_targets=narrow)["id"])
    assert refused["status"] == "FAILED_VALIDATION"
    assert "'sad'" in [event["data"] for event in refused["events"]][-1]["error"]


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"training_files": []}, 422, "training_files"),
        ({"training_files": ["11111111-1111-4111-8111-111111111111"]}, 404, "file_id"),
        ({"training_files": ["../../etc/passwd"]}, 404, "file_id"),
        ({"model": "none"}, 400, "model"),
        ({"suffix": "../.."}, 422, "suffix"),
        ({"suffix": "x" * 19}, 422, "suffix"),
        ({"hyperparameters": {"training_steps": 1, "epochs": 1}}, 422, "hyperparameters"),
        ({"hyperparameters": {"learning_rate": 2}}, 422, "hyperparameters.learning_rate"),
        ({"invalid_sample_skip_percentage": 0.6}, 422, "invalid_sample_skip_percentage"),
        ({"integrations": [{"type": "wandb", "project": "p", "api_key": "k" * 40}]}, 422, "integrations"),
        ({"job_type": "completion", "classifier_targets": [{"name": "a", "labels": ["b"]}]}, 422, "classifier_targets"),
    ],
)
def test_what_is_refused(client: TestClient, fields: dict[str, Any], status: int, param: str) -> None:
    body = {"model": "chat", "hyperparameters": {}, "training_files": [upload(client, greetings(2))], **fields}
    answer = client.post(PATH, json=body)
    assert answer.status_code == status, answer.text
    assert answer.json()["param"] == param


def test_a_job_of_openais(client: TestClient) -> None:
    file_id = upload(client, [conversation("a", "b")])
    body = {"model": "chat", "training_file": file_id, "metadata": {"team": "sea"}, "seed": 3}
    answer = client.post(PATH, json={**body, "method": {"type": "reinforcement"}})
    assert answer.status_code == 422
    made = client.post(PATH, json=body).json()
    assert made["object"] == "fine_tuning.job"
    assert (made["training_file"], made["seed"], made["metadata"]) == (file_id, 3, {"team": "sea"})
    mine = client.get(PATH, params={"limit": 1, "metadata[team]": "sea"}).json()
    assert [job["id"] for job in mine["data"]] == [made["id"]]
    assert client.get(PATH, params={"limit": 1, "metadata[team]": "land"}).json()["data"] == []
    assert client.get(f"{PATH}/{made['id']}", headers=MISTRAL).json()["object"] == "job"
    client.post(f"{PATH}/{made['id']}/cancel")
    assert job_until(client, made["id"], ["cancelled"])["status"] in ("cancelled", "succeeded")
    events = client.get(f"{PATH}/{made['id']}/events").json()["data"]
    assert events[-1]["message"] == "The job is validating_files"


def test_jobs_and_models_are_their_owners_alone(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    with serving({"chat": checkpoints["chat"]}, tmp_path, fine_tuning_nice=0) as client:
        database = client.app.state.services.database  # type: ignore[attr-defined]
        ann, ben = (
            {"authorization": f"Bearer {create_key(database, KeyOptions(name=name))[1]}"} for name in ("ann", "ben")
        )
        file_id = upload(client, greetings(), **ann)
        body = {"model": "chat", "hyperparameters": QUICK, "training_files": [file_id]}
        assert client.post(PATH, json=body, headers=ben).status_code == 404
        job = client.post(PATH, json=body, headers=ann).json()
        path = f"{PATH}/{job['id']}"
        for verb, address in (
            ("GET", path), ("POST", f"{path}/start"), ("POST", f"{path}/cancel"), ("GET", f"{path}/events"),
            ("GET", f"{path}/checkpoints"), ("GET", f"/api/fine_tuning/jobs/{job['id']}/losses"),
        ):  # fmt: skip
            assert client.request(verb, address, headers=ben).status_code == 404, address
        assert client.get(PATH, params={"page": 0}, headers=ben).json()["total"] == 0
        client.headers.update(ann)
        name = job_until(client, job["id"])["fine_tuned_model"]
        assert say(client, name).status_code == 200
        client.headers.update(ben)
        assert say(client, name).status_code == 400
        assert name not in [card["id"] for card in client.get("/v1/models").json()["data"]]
        model = f"/v1/fine_tuning/models/{name}"
        for verb, address in (
            ("GET", f"/v1/models/{name}"), ("DELETE", f"/v1/models/{name}"), ("PATCH", model),
            ("POST", f"{model}/archive"), ("DELETE", f"{model}/archive"),
        ):  # fmt: skip
            answer = client.request(verb, address, json={} if verb == "PATCH" else None)
            assert answer.status_code == 404, address
        embedding = client.post("/v1/embeddings", json={"model": name, "input": "a"})
        assert embedding.status_code == 400
    with serving({"chat": checkpoints["chat"]}, tmp_path) as client:  # the next server knows them too
        client.headers.update(ben)
        assert say(client, name).status_code == 400
        client.headers.update(ann)
        assert say(client, name).status_code == 200
    with serving({"other": checkpoints["thinker"]}, tmp_path) as client:  # and this one lacks its base
        client.headers.update(ann)
        assert say(client, name).status_code == 400
        assert client.get("/v1/models").json()["data"][0]["id"] == "other"


def test_samples_of_another_shape_are_converted_and_told(client: TestClient) -> None:
    rows = [
        {"id": n, "conversations": [{"from": "human", "value": f"Hi {n}"}, {"from": "gpt", "value": "Ahoy!"}]}
        for n in range(8)
    ]
    job = make(client, training_files=[upload(client, rows)], auto_start=False)
    job = job_until(client, job["id"], ["VALIDATED"])
    assert job["status"] == "VALIDATED", job
    notes = [event["data"]["message"] for event in job["events"] if event["name"] == "note"]
    assert notes == [
        "samples.jsonl: read as ShareGPT (conversations of from and value): 8",
        "samples.jsonl: keys without a meaning for training, passed over: id (8)",
    ]

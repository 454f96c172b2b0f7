"""A hub that means harm: names and hashes that are paths, redirects and realms that ask for the token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.hub.conftest import TOKEN
from tests.hub.fake_hub import (
    COMMIT,
    REPOSITORY,
    Answer,
    FakeHub,
    answer_with,
    no_fault,
    redirect,
)
from tests.hub.pulling import EXPECTED, SHARD, fails, fetch, visible
from tramontane.errors import CheckpointError
from tramontane.hub.store import RECORD


@pytest.mark.parametrize(
    "change",
    [
        {"lfs": {"size": 70_000, "sha256": "../../../etc/passwd", "pointerSize": 1}},
        {"lfs": {"size": 70_000, "sha256": "a" * 63, "pointerSize": 1}},
        {"lfs": {"size": 70_000, "sha256": "a" * 65, "pointerSize": 1}},
        {"lfs": {"size": 70_000, "sha256": "A" * 64, "pointerSize": 1}},
        {"lfs": {"size": 70_000, "sha256": "a" * 63 + "\0", "pointerSize": 1}},
        {"lfs": {"size": -1, "sha256": "a" * 64, "pointerSize": 1}},
        {"lfs": {"size": 2**60, "sha256": "a" * 64, "pointerSize": 1}},
    ],
)
def test_a_hash_that_is_none_makes_the_file_not_exist(hub: FakeHub, home: Path, change: dict[str, Any]) -> None:
    def corrupt(listing: dict[str, Any]) -> None:
        for entry in listing["siblings"]:
            entry.update(change)

    hub.change_listing = corrupt
    fails("holds no weights that can be read")
    assert visible(home) == []


HOSTILE_NAMES = [
    "../evil.safetensors",
    "../../model.safetensors",
    "/etc/model.safetensors",
    "model.safetensors/../../evil",
    "..\\model.safetensors",
    "model.safetensors\0",
    "model.safetensors\n",
    "config.json/../../../evil",
    "sub/model.safetensors",
    "%2e%2e/model.safetensors",
    "./model.safetensors",
    "model\u2215.safetensors",
    ".pulled.json",
    "model.safetensors.part",
    "tokenizer.model.v3/../../evil",
]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_hostile_file_name_is_never_fetched(hub: FakeHub, home: Path, tmp_path: Path, name: str) -> None:
    before = set(tmp_path.rglob("*"))
    hub.files = {**hub.files, name: b"evil" * 2000}
    folder = fetch()
    assert not hub.fetched(name)
    assert {path.name for path in folder.iterdir()} == EXPECTED | {RECORD}
    assert all(home in path.parents or path == home for path in set(tmp_path.rglob("*")) - before)


@pytest.mark.parametrize(
    "name", ["../x.gguf", "a/../../x.gguf", "/x.gguf", "a//x.gguf", ".x.gguf", "x.gguf\n", "x.safetensors", "-x.gguf"]
)
def test_a_hostile_file_cannot_be_asked_for(hub: FakeHub, home: Path, name: str) -> None:
    hub.files = {name: b"evil"}
    fails("is not the name of a model on the hub", f"{REPOSITORY}:{name}")
    assert hub.requests == []
    assert not home.exists()


@pytest.mark.parametrize("place", ["listing", SHARD])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_the_token_goes_to_no_other_host(hub: FakeHub, elsewhere: FakeHub, place: str, status: int) -> None:
    elsewhere.repository, elsewhere.files = hub.repository, hub.files
    target = elsewhere.address + (
        f"/api/models/{REPOSITORY}/revision/main" if place == "listing" else f"/{REPOSITORY}/resolve/{COMMIT}/{SHARD}"
    )
    hub.faults[place] = [redirect(target, status)]
    folder = fetch(token=TOKEN)
    assert (folder / SHARD).read_bytes() == hub.files[SHARD]
    assert elsewhere.requests
    assert {request.authorization for request in elsewhere.requests} == {None}
    assert {request.authorization for request in hub.requests} == {f"Bearer {TOKEN}"}


def test_the_token_comes_back_only_to_its_own_host(hub: FakeHub, elsewhere: FakeHub) -> None:
    path = f"/{REPOSITORY}/resolve/{COMMIT}/{SHARD}"
    elsewhere.repository, elsewhere.files = hub.repository, hub.files
    elsewhere.faults[SHARD] = [redirect(hub.address + path)]
    hub.faults[SHARD] = [redirect(elsewhere.address + path), no_fault]
    fetch(token=TOKEN)
    assert {request.authorization for request in elsewhere.requests} == {None}


@pytest.mark.parametrize("place", ["listing", SHARD])
def test_a_foreign_realm_gets_nothing(hub: FakeHub, elsewhere: FakeHub, place: str) -> None:
    realm = {"WWW-Authenticate": f'Bearer realm="{elsewhere.address}/token",service="hub"'}
    hub.faults[place] = [answer_with(401, realm)]
    with pytest.raises(CheckpointError) as caught:
        fetch(token=TOKEN)
    assert TOKEN not in str(caught.value)
    assert elsewhere.requests == []


def test_a_foreign_transfer_service_gets_nothing(hub: FakeHub, elsewhere: FakeHub) -> None:
    """The header by which huggingface_hub would fetch with a service that the answer names."""
    route = f"{elsewhere.address}/xet-token"
    xet = {"X-Xet-Hash": "a" * 64, "X-Xet-Refresh-Route": route, "Link": f'<{route}>; rel="xet-auth"'}
    hub.faults[SHARD] = [lambda answer, request: Answer(answer.status, {**answer.headers, **xet}, answer.body)]
    fetch(token=TOKEN)
    assert elsewhere.requests == []


def test_redirects_end(hub: FakeHub) -> None:
    hub.faults[SHARD] = [redirect(f"/{REPOSITORY}/resolve/{COMMIT}/{SHARD}")] * 6
    fails(f"{SHARD}: the hub redirects more than 5 times")


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://x"])
def test_redirects_lead_to_the_web_only(hub: FakeHub, target: str) -> None:
    hub.faults[SHARD] = [redirect(target)]
    fails("the hub redirects to an insecure address")


def test_the_environments_token_is_used_and_never_shown(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.faults[SHARD] = [answer_with(401)]
    fails("HTTP 401")
    assert hub.requests[0].authorization == f"Bearer {TOKEN}"


def test_the_token_is_not_sent_unencrypted(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.example.org")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    fails("HF_ENDPOINT=http://hub.example.org would carry the token unencrypted; use https, or no token")

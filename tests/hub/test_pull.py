"""Pulling: what is fetched, resumed, checked and refused, against a hub that misbehaves."""

from __future__ import annotations

import errno
import hashlib
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from tests.hub.conftest import TOKEN
from tests.hub.fake_hub import (
    COMMIT,
    REPOSITORY,
    Answer,
    FakeHub,
    Request,
    answer_with,
    cut,
    flip_bit,
    no_fault,
    redirect,
)
from tramontane.errors import CapacityError, CheckpointError, TramontaneError
from tramontane.hub import pull, resolve_model
from tramontane.hub.store import RECORD

SHARD = "model-00001-of-00002.safetensors"
EXPECTED = {
    "README.md",
    "config.json",
    "generation_config.json",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "model.safetensors.index.json",
    "params.json",
    "tokenizer.json",
    "tokenizer.model.v3",
}


def fetch(name: str = REPOSITORY, **options: Any) -> Path:
    return pull(name, retry_delay_s=0.001, **options)


def visible(home: Path) -> list[str]:
    """Everything inside repository folders that a name could lead to."""
    folders = [path for path in home.glob("models/*/*/*") if not path.name.startswith(".")]
    return sorted(str(path) for path in folders)


def fails(match: str, name: str = REPOSITORY, kind: type[TramontaneError] = CheckpointError) -> str:
    with pytest.raises(kind, match=match) as caught:
        fetch(name)
    message = str(caught.value)
    assert "\n" not in message
    assert TOKEN not in message
    return message


def test_fetches_one_set_of_weights_and_what_belongs_to_it(hub: FakeHub, home: Path) -> None:
    folder = fetch()
    assert {path.name for path in folder.iterdir()} == EXPECTED | {RECORD}
    for name in EXPECTED:
        assert (folder / name).read_bytes() == hub.files[name]
    assert folder == resolve_model(REPOSITORY) == home / "models" / "mistralai" / "Tiny-7B" / "main"
    assert not hub.fetched("consolidated.safetensors")
    assert not hub.fetched("pytorch_model.bin")


def test_takes_consolidated_weights_where_there_are_no_others(hub: FakeHub) -> None:
    for name in list(hub.files):
        if name.startswith("model"):
            del hub.files[name]
    names = {path.name for path in fetch().iterdir()}
    assert "consolidated.safetensors" in names
    assert not any(name.endswith(".bin") for name in names)


def test_takes_pth_only_where_there_is_nothing_else(hub: FakeHub) -> None:
    hub.files = {"consolidated.00.pth": b"a" * 9000, "consolidated.01.pth": b"b" * 9000, "params.json": b"{}"}
    assert {path.name for path in fetch().iterdir()} == {*hub.files, RECORD}


def test_a_second_pull_fetches_nothing(hub: FakeHub) -> None:
    fetch()
    hub.requests.clear()
    fetch()
    assert [request.path.split("?")[0] for request in hub.requests] == [f"/api/models/{REPOSITORY}/revision/main"]


def test_reports_progress_up_to_the_whole(hub: FakeHub) -> None:
    hub.faults[SHARD] = [cut(30_000), flip_bit(7)]
    reports: list[tuple[str, int, int]] = []
    fetch(progress=lambda file, done, total: reports.append((file, done, total)))
    total = sum(len(hub.files[name]) for name in EXPECTED)
    assert {report[2] for report in reports} == {total}
    assert reports[-1][1] == total
    assert all(0 <= done <= total for _, done, _ in reports)


def test_a_cut_transfer_continues_where_it_broke(hub: FakeHub) -> None:
    hub.faults[SHARD] = [cut(30_000), cut(5_000)]
    folder = fetch()
    assert (folder / SHARD).read_bytes() == hub.files[SHARD]
    assert [request.range for request in hub.fetched(SHARD)] == [None, "bytes=30000-", "bytes=35000-"]


def test_an_interrupted_pull_is_invisible_and_is_continued(hub: FakeHub, home: Path) -> None:
    hub.faults[SHARD] = [cut(30_000)] + [answer_with(503)] * 5
    fails("the transfer failed .HTTP 503.; pull again to continue from 30000 bytes")
    assert visible(home) == []
    with pytest.raises(CheckpointError, match="nor pulled from the hub"):
        resolve_model(REPOSITORY)
    hub.requests.clear()
    assert (fetch() / SHARD).read_bytes() == hub.files[SHARD]
    assert [request.range for request in hub.fetched(SHARD)] == ["bytes=30000-"]
    assert not hub.fetched("config.json")


def test_ctrl_c_keeps_what_arrived(hub: FakeHub, home: Path) -> None:
    def interrupt(file: str, done: int, total: int) -> None:
        if file == SHARD and done > 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(progress=interrupt)
    assert visible(home) == []
    fetch()


def test_a_flipped_bit_is_fetched_again_and_nothing_else_is(hub: FakeHub) -> None:
    hub.faults[SHARD] = [flip_bit(12_345)]
    hub.faults["config.json"] = [flip_bit(3)]
    folder = fetch()
    assert (folder / SHARD).read_bytes() == hub.files[SHARD]
    assert (folder / "config.json").read_bytes() == hub.files["config.json"]
    assert len(hub.fetched(SHARD)) == len(hub.fetched("config.json")) == 2
    assert len(hub.fetched("tokenizer.json")) == 1


def test_a_flipped_bit_in_what_an_earlier_pull_left_is_found(hub: FakeHub, home: Path) -> None:
    hub.faults[SHARD] = [cut(30_000)] + [answer_with(500)] * 5
    fails("HTTP 500")
    (part,) = home.rglob("*.part")
    part.write_bytes(b"x" + part.read_bytes()[1:])
    assert (fetch() / SHARD).read_bytes() == hub.files[SHARD]


def test_a_lasting_corruption_is_never_activated(hub: FakeHub, home: Path) -> None:
    hub.faults[SHARD] = [flip_bit(1), flip_bit(2)]
    fails(f"{SHARD} arrived damaged 2 times")
    assert visible(home) == []


def wrong_start(answer: Answer, request: Request) -> Answer:
    size = len(answer.body) + 30_000
    return Answer(206, {"Content-Range": f"bytes 7-{size - 1}/{size}"}, answer.body)


def wrong_total(answer: Answer, request: Request) -> Answer:
    return Answer(206, {"Content-Range": "bytes 30000-69999/90000"}, answer.body)


def wrong_bytes(answer: Answer, request: Request) -> Answer:
    return Answer(206, answer.headers, answer.body[::-1])


def whole_as_range(answer: Answer, request: Request) -> Answer:
    return Answer(206, answer.headers, bytes(30_000) + answer.body)


@pytest.mark.parametrize("lie", [wrong_start, wrong_total, wrong_bytes, whole_as_range])
def test_a_server_that_lies_about_ranges_does_not_damage_the_file(hub: FakeHub, lie: Any) -> None:
    hub.faults[SHARD] = [cut(30_000), lie]
    assert (fetch() / SHARD).read_bytes() == hub.files[SHARD]


def test_a_server_that_ignores_ranges_is_read_from_the_start(hub: FakeHub) -> None:
    hub.faults[SHARD] = [cut(30_000), lambda answer, request: Answer(200, {}, hub.files[SHARD])]
    assert (fetch() / SHARD).read_bytes() == hub.files[SHARD]


def test_a_server_that_refuses_ranges_is_read_from_the_start(hub: FakeHub) -> None:
    hub.faults[SHARD] = [cut(30_000), answer_with(416)]
    assert (fetch() / SHARD).read_bytes() == hub.files[SHARD]


@pytest.mark.parametrize("surplus", [1, 10**6])
def test_a_body_longer_than_listed_is_cut_off(hub: FakeHub, home: Path, surplus: int) -> None:
    longer = hub.files[SHARD] + bytes(surplus)
    hub.faults[SHARD] = [lambda answer, request: Answer(200, {}, longer)] * 5
    fails("more than the 70000 bytes the hub states")
    assert all(path.stat().st_size <= 70_000 for path in home.rglob("*") if path.is_file())


def test_an_empty_file_is_a_file(hub: FakeHub) -> None:
    hub.files["LICENSE"] = b""
    assert (fetch() / "LICENSE").read_bytes() == b""


def test_a_new_commit_replaces_the_old_one_and_keeps_what_did_not_change(hub: FakeHub, home: Path) -> None:
    folder = fetch()
    hub.commit = "d" * 40
    hub.files["config.json"] = b'{"model_type": "llama"}  '
    del hub.files["generation_config.json"]
    hub.requests.clear()
    assert fetch() == folder
    assert (folder / "config.json").read_bytes() == hub.files["config.json"]
    assert not (folder / "generation_config.json").exists()
    assert len(hub.fetched("config.json")) == 1
    assert not hub.fetched(SHARD)
    assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == ["main"]


def test_a_damaged_pull_is_noticed_and_mended(hub: FakeHub) -> None:
    folder = fetch()
    (folder / SHARD).write_bytes(b"short")
    with pytest.raises(CheckpointError, match=f"{SHARD} is missing or cut off; run: tramontane pull {REPOSITORY}"):
        resolve_model(REPOSITORY)
    fetch()
    assert (folder / SHARD).read_bytes() == hub.files[SHARD]
    (folder / RECORD).write_text('{"commit": 3}')
    with pytest.raises(CheckpointError, match="is not the record of a pull"):
        resolve_model(REPOSITORY)
    fetch()
    (folder / RECORD).write_text("{")
    with pytest.raises(CheckpointError, match=r"is damaged .*; or delete"):
        resolve_model(REPOSITORY)
    fetch()
    resolve_model(REPOSITORY)


def test_one_gguf_of_many(hub: FakeHub, home: Path) -> None:
    hub.files = {"tiny.Q4_0.gguf": b"GGUF" * 2000, "tiny.Q8_0.gguf": b"GGUF" * 4000, "sub/tiny.gguf": b"GGUF"}
    fails(f"name one, {REPOSITORY}:FILE, of sub/tiny.gguf, tiny.Q4_0.gguf, tiny.Q8_0.gguf")
    fails("has no file tiny.Q2_K.gguf; it has sub/tiny.gguf, ", f"{REPOSITORY}:tiny.Q2_K.gguf")
    path = fetch(f"{REPOSITORY}:tiny.Q4_0.gguf")
    assert path.read_bytes() == hub.files["tiny.Q4_0.gguf"]
    assert resolve_model(f"{REPOSITORY}:tiny.Q4_0.gguf") == path
    nested = fetch(f"{REPOSITORY}:sub/tiny.gguf")
    assert nested.read_bytes() == b"GGUF"
    assert resolve_model(f"{REPOSITORY}:sub/tiny.gguf") == nested
    with pytest.raises(CheckpointError, match=r"tramontane pull mistralai/Tiny-7B:tiny.Q8_0.gguf"):
        resolve_model(f"{REPOSITORY}:tiny.Q8_0.gguf")


def test_the_only_gguf_needs_no_name(hub: FakeHub) -> None:
    hub.files = {"tiny.gguf": b"GGUF" * 2000}
    assert {path.name for path in fetch().iterdir()} == {"tiny.gguf", RECORD}


def test_says_when_weights_are_pickles(hub: FakeHub) -> None:
    hub.files = {"pytorch_model.bin": b"x", "config.json": b"{}"}
    fails("only as pickled .bin files")
    hub.files = {"README.md": b""}
    fails("holds no weights that can be read")


def test_says_what_the_hub_refused(hub: FakeHub) -> None:
    fails("org/other is not on 127.0.0.1:[0-9]+, or is private; check the name, or set HF_TOKEN", "org/other")
    fails("mistralai/Tiny-7B@v2 has no revision v2", f"{REPOSITORY}@v2")
    hub.faults["listing"] = [answer_with(403, {"X-Error-Code": "GatedRepo"})]
    fails(f"is gated; accept its conditions at http://127.0.0.1:[0-9]+/{REPOSITORY} and set HF_TOKEN")
    hub.faults["listing"] = [answer_with(500)]
    fails("answered HTTP 500; try again later")
    hub.faults["listing"] = [answer_with(200, {}, b"<html>")]
    fails("gave no usable answer")
    hub.faults["listing"] = [answer_with(200, {}, b"[1, 2]")]
    fails("gave no usable answer")
    hub.faults[SHARD] = [answer_with(403)]
    fails(f"{SHARD}: the hub answered HTTP 403; check the name, or set HF_TOKEN")


def test_says_when_there_is_no_connection(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    fails("127.0.0.1:9 gave no usable answer .ConnectError.; check the connection")


def test_says_when_offline_is_set(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    fails("cannot be fetched while HF_HUB_OFFLINE is set; unset it")


def test_refuses_a_listing_that_is_none(hub: FakeHub) -> None:
    hub.change_listing = lambda listing: listing.update(sha="../../evil")
    fails("the hub's listing is not one of a model")


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


def test_a_full_disk_is_seen_before_anything_is_fetched(
    hub: FakeHub, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 1000, 1000))
    fails("has 0.0 GB free, but 0.0 GB are still to be fetched; make room, or set", kind=CapacityError)
    assert not hub.fetched(SHARD)
    assert visible(home) == []


def test_a_disk_that_fills_up_leaves_a_pull_that_can_go_on(
    hub: FakeHub, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ENOSPC at each write in turn; after each, space returns and the pull works without a restart."""
    real_open = Path.open

    for failing_write in range(1, 8):
        writes = 0

        def limited(self: Path, *args: Any, failing_write: int = failing_write, **options: Any) -> Any:
            file = real_open(self, *args, **options)
            if self.suffix != ".part":
                return file

            def write(data: bytes) -> int:
                nonlocal writes
                writes += 1
                if writes == failing_write:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return int(real_write(data))

            real_write = file.write
            return _Proxy(file, write)

        monkeypatch.setattr(Path, "open", limited)
        fails("is full .* make room and pull again to continue", kind=CapacityError)
        assert visible(home) == []
        monkeypatch.setattr(Path, "open", real_open)
        folder = fetch()
        assert all((folder / name).read_bytes() == hub.files[name] for name in EXPECTED)
        shutil.rmtree(home)


class _Proxy:
    """A file whose `write` is another."""

    def __init__(self, file: Any, write: Any) -> None:
        self._file = file
        self.write = write

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _Proxy:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()


def test_a_folder_that_cannot_be_written_is_named(hub: FakeHub, home: Path) -> None:
    home.parent.mkdir(exist_ok=True)
    home.write_text("a file in the way")
    fails("cannot be written .*, or set TRAMONTANE_HOME")


def test_two_pulls_of_one_model_do_not_mix(hub: FakeHub) -> None:
    def pull_again(file: str, done: int, total: int) -> None:
        fails(f"another pull of {REPOSITORY} is under way; wait for it to end")

    fetch(progress=pull_again)


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


def test_every_pulled_byte_has_the_listed_hash(hub: FakeHub) -> None:
    folder = fetch()
    for name in EXPECTED:
        digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        assert digest == hashlib.sha256(hub.files[name]).hexdigest()

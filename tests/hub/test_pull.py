"""Pulling: what is fetched, what is kept, and what is said when it cannot be."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from tests.hub.fake_hub import (
    REPOSITORY,
    FakeHub,
    answer_with,
    cut,
    flip_bit,
)
from tests.hub.pulling import EXPECTED, SHARD, fails, fetch
from tests.llm.test_adapters import make_adapter
from tests.tiny_checkpoint import write_tiny_checkpoint
from tramontane.cli import main
from tramontane.errors import CheckpointError
from tramontane.hub import resolve_model
from tramontane.hub.store import RECORD
from tramontane.loading.named_model import NamedModel, find_model, portable_name


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_tiny_checkpoint(tmp_path / "base")


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
    hub.files = {
        "consolidated.00.pth": b"a" * 9000,
        "consolidated.01.pth": b"b" * 9000,
        "params.json": hub.files["params.json"],
    }
    assert {path.name for path in fetch().iterdir()} == {*hub.files, RECORD}


def test_an_adapter_is_pulled_and_named_by_its_id(
    hub: FakeHub, home: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = make_adapter(tmp_path / "adapter", checkpoint, 1)
    names = ("adapter_config.json", "adapter_model.safetensors")
    hub.files = {name: (adapter / name).read_bytes() for name in names} | {"training_args.bin": b"x", "README.md": b""}
    assert main.run(["pull", REPOSITORY, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["size_bytes"] == (adapter / names[1]).stat().st_size
    folder = resolve_model(REPOSITORY)
    assert {path.name for path in folder.iterdir()} == {*names, "README.md", RECORD}
    assert find_model(REPOSITORY) == NamedModel(checkpoint, folder)
    assert portable_name(folder) == REPOSITORY
    assert portable_name(fetch(f"{REPOSITORY}@main")) == REPOSITORY
    assert portable_name(resolve_model("default")) == "default"
    assert portable_name(checkpoint) == str(checkpoint.resolve())


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


def test_a_new_commit_replaces_the_old_one_and_keeps_what_did_not_change(hub: FakeHub, home: Path) -> None:
    folder = fetch()
    hub.commit = "d" * 40
    hub.files["config.json"] += b"  "
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


@pytest.mark.parametrize("why", ["found elsewhere", "not listed any more"])
def test_no_part_of_a_file_is_left_in_a_model(hub: FakeHub, why: str) -> None:
    """A pull that was cut in the middle of a file that the next one need not fetch."""
    folder = fetch()
    whole = (folder / "README.md").read_bytes()
    (folder / "README.md").unlink()
    hub.faults["README.md"] = [cut(1), *[cut(0)] * 9]
    fails("the transfer failed")
    hub.faults = {}
    if why == "found elsewhere":
        (folder / "README.md").write_bytes(whole)
        (folder / SHARD).unlink()
    else:
        hub.files.pop("README.md")
    fetch()
    assert {path.name for path in folder.iterdir()} == {name for name in EXPECTED if name in hub.files} | {RECORD}


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


def test_a_folder_that_cannot_be_written_is_named(hub: FakeHub, home: Path) -> None:
    home.parent.mkdir(exist_ok=True)
    home.write_text("a file in the way")
    fails("cannot be written .*, or set TRAMONTANE_HOME")


def test_two_pulls_of_one_model_do_not_mix(hub: FakeHub) -> None:
    def pull_again(file: str, done: int, total: int) -> None:
        fails(f"another pull of {REPOSITORY} is under way; wait for it to end")

    fetch(progress=pull_again)


def test_every_pulled_byte_has_the_listed_hash(hub: FakeHub) -> None:
    folder = fetch()
    for name in EXPECTED:
        digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        assert digest == hashlib.sha256(hub.files[name]).hexdigest()


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("config.json", b'{"model_type": "qwen2"}', r"config.json: model_type='qwen2' is not supported.*not fetched"),
        ("config.json", b"{", r"config.json is damaged"),
        ("params.json", b'{"dim": 8, "model_type": "mamba"}', r"params.json: model_type='mamba' is not supported"),
    ],
)
def test_weights_of_a_model_that_would_be_refused_are_not_fetched(
    name: str, content: bytes, match: str, hub: FakeHub, home: Path
) -> None:
    hub.files[name] = content
    if name == "params.json":
        hub.files = {file: data for file, data in hub.files.items() if not file.startswith(("model", "config"))}
    fails(match)
    assert not any("safetensors" in request.path for request in hub.requests)
    assert not list(home.glob("models/*/*/main"))


def test_weights_without_their_configuration_are_not_fetched(hub: FakeHub) -> None:
    del hub.files["config.json"]
    fails("has weights but no config.json")
    assert not any("safetensors" in request.path for request in hub.requests)


def test_a_part_of_a_split_gguf_is_not_fetched(hub: FakeHub) -> None:
    parts = {f"big-Q4_K_M-{number:05d}-of-00002.gguf": b"x" * 5000 for number in (1, 2)}
    hub.files = {"README.md": b"# GGUF", **parts}
    fails("holds split GGUF files only")
    fails("is one part of a split model", f"{REPOSITORY}:big-Q4_K_M-00001-of-00002.gguf")
    hub.files["small.gguf"] = b"y" * 5000
    fails("name a whole file, of small.gguf", f"{REPOSITORY}:big-Q4_K_M-00001-of-00002.gguf")
    assert fetch().joinpath("small.gguf").is_file()


def test_parts_beside_a_whole_file_are_left_where_they_are(hub: FakeHub) -> None:
    hub.files["model.safetensors"] = b"z" * 5000
    assert {path.name for path in fetch().glob("*.safetensors*")} == {"model.safetensors"}

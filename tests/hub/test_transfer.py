"""Transfers that are cut, corrupted, answered with lies about ranges, or run out of disk."""

from __future__ import annotations

import errno
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from tests.hub.fake_hub import (
    REPOSITORY,
    Answer,
    FakeHub,
    Request,
    answer_with,
    cut,
    flip_bit,
)
from tests.hub.pulling import EXPECTED, SHARD, fails, fetch, visible
from tramontane.errors import CapacityError, CheckpointError
from tramontane.hub import resolve_model


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


def test_a_file_that_is_shorter_than_listed_is_given_up(hub: FakeHub, home: Path) -> None:
    """Where nothing is left after what has arrived, it is begun again; that alone is no progress."""

    def longer(listing: dict[str, Any]) -> None:
        for file in listing["siblings"]:
            if file["rfilename"] == SHARD:
                file["size"] = file["lfs"]["size"] = 100_000

    hub.change_listing = longer
    fails(f"{SHARD}: the transfer failed")
    assert visible(home) == []
    assert len(hub.fetched(SHARD)) < 20


@pytest.mark.parametrize("surplus", [1, 10**6])
def test_a_body_longer_than_listed_is_cut_off(hub: FakeHub, home: Path, surplus: int) -> None:
    longer = hub.files[SHARD] + bytes(surplus)
    hub.faults[SHARD] = [lambda answer, request: Answer(200, {}, longer)] * 5
    fails("more than the 70000 bytes the hub states")
    assert all(path.stat().st_size <= 70_000 for path in home.rglob("*") if path.is_file())


def test_an_empty_file_is_a_file(hub: FakeHub) -> None:
    hub.files["LICENSE"] = b""
    assert (fetch() / "LICENSE").read_bytes() == b""


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

"""Contents: whole or absent, under ids of our own, on a disk or through fsspec."""

from __future__ import annotations

import errno
import os
import resource
import signal
import uuid
from pathlib import Path

import pytest

from tramontane.server.store.contents import ContentStore
from tramontane.server.store.errors import DiskFullError


@pytest.fixture(params=["disk", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ContentStore:
    return ContentStore(tmp_path, None if request.param == "disk" else f"memory://{uuid.uuid4().hex}")


def put(store: ContentStore, data: bytes) -> str:
    with store.incoming() as incoming:
        incoming.write(data)
        store.publish(incoming)
        return incoming.id


def test_what_is_published_is_read_and_deleted(store: ContentStore) -> None:
    content_id = put(store, b"tramontane")
    with store.open(content_id) as file:
        assert file.read() == b"tramontane"
    with store.local(content_id) as path:
        assert path.read_bytes() == b"tramontane"
    store.delete(content_id)
    store.delete(content_id)
    with pytest.raises(FileNotFoundError):
        store.open(content_id)


def test_what_is_not_published_vanishes(store: ContentStore, tmp_path: Path) -> None:
    with store.incoming() as incoming:
        incoming.write(b"x" * 10_000)
    assert list((tmp_path / "incoming").iterdir()) == []
    with pytest.raises(FileNotFoundError):
        store.open(incoming.id)


def test_uploads_cut_short_are_swept_and_nothing_else(store: ContentStore, tmp_path: Path) -> None:
    content_id = put(store, b"a")
    incoming = tmp_path / "incoming"
    (incoming / f"{uuid.uuid4()}.part").write_bytes(b"cut off")
    (incoming / "reading-x").mkdir()
    (incoming / "notes").write_text("the operator's")
    assert store.sweep_incoming() == 0  # they are young
    assert store.sweep_incoming(age_s=-1) == 2
    assert [path.name for path in incoming.iterdir()] == ["notes"]
    store.open(content_id).close()


@pytest.mark.parametrize(
    "name", ["", "..", "../x", "/etc/passwd", "a" * 36, f"{uuid.UUID(int=0)}/x", f"{uuid.UUID(int=0)}\n"]
)
def test_a_name_is_no_id(store: ContentStore, name: str) -> None:
    for use in (store.open, store.delete):
        with pytest.raises(ValueError, match="not an id"):
            use(name)


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    store = ContentStore(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then writing past the limit fails with EFBIG
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        with pytest.raises(DiskFullError, match="disk is full"):
            put(store, b"x" * 300_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    put(store, b"there is room again")


def test_other_failures_are_not_called_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ContentStore(tmp_path)

    def fails(descriptor: int) -> None:
        raise OSError(errno.EIO, "broken disk")

    with store.incoming() as incoming:
        incoming.write(b"x")
        monkeypatch.setattr(os, "fsync", fails)
        with pytest.raises(OSError, match="broken"):
            store.publish(incoming)

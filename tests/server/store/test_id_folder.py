"""IdFolder: what no row knows goes to the trash, never away; and comes back."""

from __future__ import annotations

import logging
import os
import time
import uuid
from pathlib import Path

import fsspec
import pytest

from tramontane.server.store.id_folder import IdFolder


@pytest.fixture(params=["disk", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> IdFolder:
    url = str(tmp_path / "files") if request.param == "disk" else f"memory://{uuid.uuid4().hex}"
    fs, root = fsspec.core.url_to_fs(url)
    fs.makedirs(root, exist_ok=True)
    return IdFolder(fs, root, what="contents", is_sharded=True)


def put(folder: IdFolder, data: bytes = b"x") -> str:
    entry_id = str(uuid.uuid4())
    folder.fs.makedirs(folder.path(entry_id).rpartition("/")[0], exist_ok=True)
    folder.fs.pipe_file(folder.path(entry_id), data)
    return entry_id


def test_what_no_row_knows_goes_to_the_trash_with_one_line(folder: IdFolder, caplog: pytest.LogCaptureFixture) -> None:
    kept, *lost = (put(folder) for _ in range(4))
    with caplog.at_level(logging.WARNING):
        assert folder.sweep({kept}) == 0  # they are young
        assert folder.sweep({kept}, age_s=-1, day="2026-11-30") == 3
    assert set(folder.entries()) == {kept}
    assert set(folder.trashed()) == set(lost)
    assert [record.getMessage() for record in caplog.records] == [
        f"3 contents without a row in the database went to {folder.root}/trash/2026-11-30"
    ]


def test_the_trash_is_not_swept_again(folder: IdFolder) -> None:
    put(folder)
    assert folder.sweep((), age_s=-1) == 1
    assert folder.sweep((), age_s=-1) == 0


def test_what_is_wanted_comes_back_as_it_was(folder: IdFolder) -> None:
    wanted, other = put(folder, b"wanted"), put(folder)
    folder.sweep((), age_s=-1)
    assert folder.restore({wanted, str(uuid.uuid4())}) == 1
    assert folder.fs.cat_file(folder.path(wanted)) == b"wanted"
    assert set(folder.trashed()) == {other}


def test_nothing_is_replaced_on_the_way(folder: IdFolder) -> None:
    """An id that is in the trash of the day already, and one whose place was taken since."""
    entry_id = put(folder, b"first")
    folder.sweep((), age_s=-1, day="2026-11-30")
    folder.fs.pipe_file(folder.path(entry_id), b"second")
    assert folder.sweep((), age_s=-1, day="2026-11-30") == 0
    assert folder.restore({entry_id}) == 0
    assert folder.fs.cat_file(folder.path(entry_id)) == b"second"
    assert folder.fs.cat_file(folder.trashed()[entry_id]) == b"first"


def test_days_of_the_trash_end(folder: IdFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    put(folder)
    folder.sweep((), age_s=-1)
    assert folder.empty_trash(days=30) == 0
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now + 32 * 86_400)
    folder.fs.pipe_file(f"{folder.root}/trash/notes", b"of the operator")
    assert folder.empty_trash(days=30) == 1
    assert folder.trashed() == {}
    assert folder.fs.exists(f"{folder.root}/trash/notes")


def test_folders_are_entries_too(tmp_path: Path) -> None:
    fs, root = fsspec.core.url_to_fs(str(tmp_path))
    folder = IdFolder(fs, root, what="jobs", is_sharded=False)
    job_id, other = str(uuid.uuid4()), tmp_path / "place"
    (tmp_path / job_id / "run").mkdir(parents=True)
    (tmp_path / job_id / "run" / "log").write_text("said")
    other.write_text("not an id")
    os.utime(tmp_path / job_id, (0, 0))
    assert folder.sweep(()) == 1
    assert other.exists()
    assert (Path(folder.trashed()[job_id]) / "run" / "log").read_text() == "said"
    assert folder.restore({job_id}) == 1
    assert (tmp_path / job_id / "run" / "log").read_text() == "said"

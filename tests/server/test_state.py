"""A database and its folders: tied together, refused where they are not each other's, and nothing deleted for it."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.orm import Session

from tests.server.rows import add_file, add_job, fine_tuned_model
from tramontane.cli.main import run
from tramontane.errors import ConfigError
from tramontane.server.app import sweep
from tramontane.server.batch.jobs import BatchJobs
from tramontane.server.batch.results import finish
from tramontane.server.fine_tuning.jobs import MODEL, QUEUED, SUCCESS
from tramontane.server.lease import LeaseWatch
from tramontane.server.responses.store import StoredResponses
from tramontane.server.settings import ServerSettings
from tramontane.server.state import State, open_state
from tramontane.server.store.database import Database
from tramontane.server.store.errors import StoreError
from tramontane.server.store.tables import BatchJob, File, FineTuningJob, Key
from tramontane.server.store.tie import TIE, Keeper


def settings(home: Path, **values: Any) -> ServerSettings:
    return ServerSettings(state_dir=home, **values)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Three files and two jobs, of long ago."""
    state = open_state(settings(tmp_path / "home"))
    for _ in range(3):
        add_file(state)
    add_job(state), add_job(state)
    state.database.close()
    age(tmp_path / "home")
    return tmp_path / "home"


def age(home: Path) -> None:
    for path in home.rglob("*"):
        if path.name != "state.db":
            os.utime(path, (1, 1))


def all_entries(home: Path) -> set[str]:
    """Names of contents and job folders, wherever they are below `home`."""
    return {path.name for path in home.rglob("*") if len(path.name) == 36}


def refused(given: ServerSettings) -> str:
    with pytest.raises(ConfigError) as error:
        open_state(given)
    message = str(error.value)
    assert "\n" not in message
    assert "tramontane adopt" in message
    return message


def sweep_all(state: State) -> None:
    sweep(state, StoredResponses(state.database, days=30), trash_days=30)


def test_a_home_is_opened_again_and_swept_without_a_loss(home: Path) -> None:
    before = all_entries(home)
    state = open_state(settings(home))
    sweep_all(state)
    state.database.close()
    assert {path.name for path in home.rglob("*") if len(path.name) == 36 and "trash" not in path.parts} == before


@pytest.mark.parametrize("other", ["new", "of another home", "filled, but never served"])
def test_another_database_beside_filled_folders_is_refused(home: Path, tmp_path: Path, other: str) -> None:
    """A1: each of these deleted every file and every fine-tuned model."""
    url = f"sqlite:///{tmp_path}/other/state.db"
    if other == "of another home":
        stranger = open_state(settings(tmp_path / "other"))
        add_file(stranger)
        stranger.database.close()
    elif other == "filled, but never served":
        assert run(["keys", "create", "wind", "--database-url", url]) == 0
    before = all_entries(home)
    message = refused(settings(home, database_url=url))
    assert f"{tmp_path}/other/state.db and {home}/files do not belong together" in message
    assert "3 contents of files" in message
    assert all_entries(home) == before


@pytest.mark.parametrize("damage", ["emptied", "gone", "emptied beside its log"])
def test_an_empty_database_file_is_not_a_new_one(home: Path, damage: str) -> None:
    if damage == "gone":
        (home / "state.db").unlink()
    else:
        os.truncate(home / "state.db", 0)
    if damage == "emptied beside its log":
        (home / "state.db-wal").write_bytes(b"what may yet be saved")
        with pytest.raises(ConfigError, match=r"state\.db is empty .* put a backup in its place"):
            open_state(settings(home))
        assert (home / "state.db-wal").read_bytes() == b"what may yet be saved"
        return
    assert "3 contents of files" in refused(settings(home))
    assert "3 contents of files" in refused(settings(home))  # the second time too


@pytest.mark.parametrize("folder", ["files", "fine_tuning"])
def test_a_filled_database_beside_an_empty_folder_is_refused(home: Path, folder: str) -> None:
    shutil.rmtree(home / folder)
    assert "and none is there" in refused(settings(home))


def test_contents_that_are_elsewhere_now_are_missed(home: Path, tmp_path: Path) -> None:
    message = refused(settings(home, files_url=f"memory://{uuid.uuid4().hex}"))
    assert "and memory://" in message
    assert "lists 3 contents of files, and none is there" in message
    shutil.move(home / "files", tmp_path / "moved")
    state = open_state(settings(home, files_url=str(tmp_path / "moved")))
    state.database.close()


def test_a_state_folder_that_was_moved_goes_on(home: Path, tmp_path: Path) -> None:
    shutil.move(home, tmp_path / "elsewhere")
    open_state(settings(tmp_path / "elsewhere")).database.close()


def test_a_database_without_its_state_folder_is_refused(home: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{home}/state.db"
    assert "and none is there" in refused(settings(tmp_path / "new", database_url=url))


def test_another_state_folder_may_share_contents_and_database(home: Path, tmp_path: Path) -> None:
    """Several servers, each with fine-tuning jobs of its own."""
    shared = {"database_url": f"sqlite:///{home}/state.db", "files_url": str(home / "files")}
    first = open_state(settings(home, **shared))
    second = open_state(settings(tmp_path / "second", **shared))
    sweep_all(second)
    sweep_all(first)
    assert not list(home.rglob("trash"))
    first.database.close()
    second.database.close()
    open_state(settings(tmp_path / "second", **shared)).database.close()
    open_state(settings(home, **shared)).database.close()


def test_an_older_copy_of_the_database_is_told_from_the_one_that_went_on(home: Path, tmp_path: Path) -> None:
    shutil.copy(home / "state.db", tmp_path / "backup.db")
    state = open_state(settings(home))
    add_file(state)
    state.database.close()
    before = all_entries(home)
    shutil.copy(tmp_path / "backup.db", home / "state.db")
    assert "it is an older copy" in refused(settings(home))
    assert all_entries(home) == before


def test_an_older_copy_of_the_folder_is_told_by_what_it_lacks(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "files", tmp_path / "backup")
    state = open_state(settings(home))
    add_file(state)
    state.database.close()
    shutil.rmtree(home / "files")
    shutil.copytree(tmp_path / "backup", home / "files")
    assert "1 of the 4 contents of files that the database lists are not there" in refused(settings(home))


def test_a_copy_of_the_contents_that_was_cut_short_is_told(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With its tie, which says nothing of what came after it."""
    contents = sorted(path for path in (home / "files").glob("??/*"))
    contents[0].unlink()
    contents[1].write_bytes(b"tram")
    state = open_state(settings(home))
    with caplog.at_level(logging.WARNING):
        state.tell_missing()
    assert f"2 contents of files that {home}/state.db lists are not whole in {home}/files" in caplog.text
    state.database.close()
    tie = json.loads((home / "files" / TIE).read_text())
    (home / "files" / TIE).write_text(json.dumps(tie | {"used_at": tie["used_at"] - 1}))
    assert "2 of the 3 contents of files that the database lists are not there, or not whole" in refused(settings(home))


def test_an_older_copy_of_a_job_folder_is_left_as_it_is(home: Path) -> None:
    """Its job had made a model when the database was copied; here it has yet to."""
    state = open_state(settings(home))
    job = state.fine_tuning_jobs.moving()[0]
    folder = state.fine_tuning_jobs.folder_of(job.id)
    (folder / "run" / "checkpoints").mkdir(parents=True)
    with state.database.write() as session:
        row = session.get(FineTuningJob, job.id)
        assert row is not None
        row.status = SUCCESS
        session.add(fine_tuned_model(f"ft:{job.id}", place=state.fine_tuning_jobs.place, job_id=job.id))
    state.fine_tuning_jobs.tidy()
    assert (folder / "run" / "checkpoints").is_dir()
    (folder / MODEL).mkdir()
    state.fine_tuning_jobs.tidy()
    assert [path.name for path in (folder / "run").iterdir()] == ["model"]
    state.database.close()


@pytest.mark.parametrize("files", ["in the state folder", "elsewhere"])
def test_jobs_whose_state_folder_has_lost_its_name_are_found_again_or_told_of(
    home: Path, files: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Models and jobs were gone without a word. Where files lie elsewhere, another server may have its own jobs."""
    (home / "fine_tuning" / "place").unlink()
    state = open_state(settings(home, files_url=None if files == "in the state folder" else str(home / "files")))
    with caplog.at_level(logging.WARNING):
        state.tell_missing()
    if files == "in the state folder":
        assert len(state.fine_tuning_jobs.moving()) == 2
        assert not caplog.text
    else:
        assert state.fine_tuning_jobs.moving() == []
        assert "2 unfinished fine-tuning jobs and 0 fine-tuned models" in caplog.text
        assert "run tramontane adopt" in caplog.text
    state.database.close()


def test_a_new_state_folder_beside_files_elsewhere_tells_of_the_lost_one(
    home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And the remedy works as it is written."""
    shared = {"database_url": f"sqlite:///{home}/state.db", "files_url": str(home / "files")}
    new = settings(tmp_path / "new", **shared)
    state = open_state(new)
    with caplog.at_level(logging.WARNING):
        state.tell_missing()
    state.database.close()
    assert f"2 unfinished fine-tuning jobs and 0 fine-tuned models of {home}/state.db lie in other" in caplog.text
    assert f"put their folders into {tmp_path}/new/fine_tuning and run tramontane adopt" in caplog.text
    for path in (home / "fine_tuning").glob("*-*-*-*-*"):
        shutil.move(path, tmp_path / "new" / "fine_tuning" / path.name)
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in shared.items()]
    assert run(["adopt", "--yes", "--state-dir", str(tmp_path / "new"), *arguments]) == 0
    caplog.clear()
    state = open_state(new)
    state.tell_missing()
    assert not caplog.text
    assert len(state.fine_tuning_jobs.moving()) == 2
    state.database.close()


@pytest.mark.parametrize("damage", [b"", b"\xff", b"../../etc"])
def test_a_damaged_name_of_a_place_is_told_with_a_remedy_that_works(home: Path, damage: bytes) -> None:
    (home / "fine_tuning" / "place").write_bytes(damage)
    assert f"{home}/fine_tuning/place is damaged; delete it" in refused(settings(home))
    (home / "fine_tuning" / "place").unlink()
    assert run(["adopt", "--yes", "--state-dir", str(home)]) == 0
    state = open_state(settings(home))
    assert len(state.fine_tuning_jobs.moving()) == 2
    state.database.close()


def test_empty_folders_of_another_database_are_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Keys may have been lost with it."""
    open_state(settings(tmp_path)).database.close()
    os.truncate(tmp_path / "state.db", 0)
    with caplog.at_level(logging.WARNING):
        open_state(settings(tmp_path)).database.close()
    assert f"{tmp_path}/files was in use with another database until" in caplog.text


@pytest.mark.parametrize("what", ["file", "batch", "results"])
def test_contents_stay_where_a_commit_may_have_come_through(
    home: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """The connection breaks after it was asked for: the row is there, and its contents were deleted."""
    state = open_state(settings(home))
    jobs = BatchJobs(state.database, state.files.contents)
    if what == "results":
        add_batch(jobs)
        claimed = jobs.claim("server", LeaseWatch())
        assert claimed is not None
        job_id = claimed.id
        jobs.append(job_id, "server", [{"line": 0, "custom_id": "a", "status_code": 200, "body": "{}"}])
    with monkeypatch.context() as patch:
        patch.setattr(Database, "write", breaking(Database.write, of="files" if what != "batch" else "batch_jobs"))
        make: dict[str, Callable[[], object]] = {
            "file": lambda: add_file(state),
            "batch": lambda: add_batch(jobs),
            "results": lambda: finish(jobs, job_id, "server", "SUCCESS"),
        }
        with pytest.raises(StoreError):
            make[what]()
    rows = state.files.rows()
    assert len(rows.needed) == 4
    assert rows.missing(state.files.entries.entries()) == set()
    state.database.close()


def add_batch(jobs: BatchJobs) -> None:
    job = BatchJob(
        id=str(uuid.uuid4()),
        owner="local",
        key_id="local",
        dialect="mistral",
        endpoint="/v1/chat/completions",
        input_files=[],
        status=QUEUED,
        created_at=time.time(),
        expires_at=time.time() + 60,
        num_requests=1,
        num_succeeded=0,
        num_failed=0,
        errors=[],
        lease_count=0,
    )
    with jobs.contents.incoming() as incoming:
        incoming.write(b"{}\n")
        jobs.add(incoming, job)


def breaking(write: Any, *, of: str) -> Any:
    """`write`, but for transactions that add to the table `of`: they are committed, and fail all the same."""

    @contextlib.contextmanager
    def written(database: Database) -> Iterator[Session]:
        added: set[str] = set()
        with write(database) as session:
            event.listen(session, "before_flush", lambda s, *_: added.update(row.__tablename__ for row in s.new))
            yield session
        if of in added:
            raise StoreError("the server's database cannot be reached; try again later")

    return written


def test_a_crash_between_database_and_folder_is_nothing(home: Path) -> None:
    """The tie is renewed in the database first."""
    tie = (home / "files" / TIE).read_bytes()
    open_state(settings(home)).database.close()
    (home / "files" / TIE).write_bytes(tie)
    open_state(settings(home)).database.close()


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"store_id": 1}', b"\xff"])
def test_a_damaged_tie_is_told_and_written_anew(home: Path, damage: bytes) -> None:
    (home / "files" / TIE).write_bytes(damage)
    assert "store.json is damaged" in refused(settings(home))
    assert run(["adopt", "--yes", "--state-dir", str(home)]) == 0
    open_state(settings(home)).database.close()


def test_what_is_new_may_be_tied_to_what_is_empty(tmp_path: Path) -> None:
    """Whoever begins anew has nothing to lose: folders without an entry, whatever they were tied to."""
    open_state(settings(tmp_path)).database.close()
    (tmp_path / "state.db").unlink()
    state = open_state(settings(tmp_path))
    with state.database.write() as session:
        session.execute(text("DELETE FROM store"))
    state.database.close()
    open_state(settings(tmp_path)).database.close()


def as_version_0_2_0(home: Path) -> None:
    """Without a store id anywhere."""
    for path in home.rglob(TIE):
        path.unlink()
    state = open_state(settings(home), untied=True)
    with state.database.write() as session:
        session.execute(text("DELETE FROM store"))
    state.database.close()


def test_a_home_of_version_0_2_0_is_taken_over(home: Path) -> None:
    as_version_0_2_0(home)
    open_state(settings(home)).database.close()
    assert json.loads((home / "files" / TIE).read_text()) == json.loads((home / "fine_tuning" / TIE).read_text())


@pytest.mark.parametrize(
    ("num_unknown", "is_taken_over"), [(0, True), (1, True), (2, False)]
)  # beside the 3 with a row: one in ten, rounded up, may be left by a crash
def test_a_home_of_version_0_2_0_may_hold_what_a_crash_left(home: Path, num_unknown: int, is_taken_over: bool) -> None:
    as_version_0_2_0(home)
    for _ in range(num_unknown):
        name = str(uuid.uuid4())
        (home / "files" / name[:2]).mkdir(exist_ok=True)
        (home / "files" / name[:2] / name).write_bytes(b"x")
    if is_taken_over:
        open_state(settings(home)).database.close()
    else:
        assert "of the 5 contents of files that are there, the database knows 3" in refused(settings(home))


@pytest.mark.parametrize("lost", ["a row", "contents", "all rows", "all contents"])
def test_a_home_of_version_0_2_0_whose_halves_differ_is_refused(home: Path, lost: str) -> None:
    as_version_0_2_0(home)
    contents = sorted(path for path in (home / "files").rglob("*") if path.is_file())
    state = open_state(settings(home), untied=True)
    with state.database.write() as session:
        if lost == "a row":
            session.execute(text("DELETE FROM files WHERE id != :id"), {"id": contents[0].name})
        elif lost == "all rows":
            session.execute(text("DELETE FROM files"))
    state.database.close()
    for path in {"contents": contents[:1], "all contents": contents}.get(lost, []):
        path.unlink()
    refused(settings(home))


def test_servers_that_start_at_once_tie_the_same(tmp_path: Path) -> None:
    opened: list[State] = []
    threads = [threading.Thread(target=lambda: opened.append(open_state(settings(tmp_path)))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 6
    for state in opened:
        add_file(state)
        sweep_all(state)
        state.database.close()
    state = open_state(settings(tmp_path))
    assert len(state.files.entries.entries()) == 6
    state.database.close()


def test_a_database_exchanged_under_a_running_server_stops_the_sweep(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = open_state(settings(home))
    before = all_entries(home)
    with state.database.write() as session:
        for table in ("store", "files", "fine_tuning_jobs"):
            session.execute(text(f"DELETE FROM {table}"))
    with caplog.at_level(logging.ERROR):
        sweep_all(state)
    assert "nothing is swept" in caplog.text
    assert all_entries(home) == before
    assert not list(home.rglob("trash"))
    state.database.close()


def test_leftovers_of_crashes_go_to_the_trash_and_come_back_with_their_rows(
    home: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    state = open_state(settings(home))
    with state.database.read() as session:
        row = session.query(File).first()
        job = session.query(FineTuningJob).first()
    assert row is not None
    assert job is not None
    with state.database.write() as session:
        session.execute(text("DELETE FROM files WHERE id = :id"), {"id": row.id})
        session.execute(text("DELETE FROM fine_tuning_events"))
        session.execute(text("DELETE FROM fine_tuning_jobs WHERE id = :id"), {"id": job.id})
    with caplog.at_level(logging.WARNING):
        sweep_all(state)
    assert "1 contents of files without a row" in caplog.text
    assert "1 folders of fine-tuning jobs without a row" in caplog.text
    for keeper, lost in ((state.files, row.id), (state.fine_tuning_jobs, job.id)):
        entries = _entries(keeper)
        assert set(entries.trashed()) == {lost}
    with state.database.write() as session:
        for each in (row, job):
            session.merge(each)
    state.database.close()
    capsys.readouterr()
    assert run(["adopt", "--yes", "--state-dir", str(home), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["folders"]
    assert [(each["num_known"], each["num_in_trash"], each["num_missing"]) for each in found] == [(2, 1, 0), (1, 1, 0)]
    state = open_state(settings(home))
    assert len(state.files.entries.entries()) == 3
    assert len(state.fine_tuning_jobs.entries.entries()) == 2
    state.database.close()


def _entries(keeper: Keeper) -> Any:
    return keeper.entries


def test_adopting_goes_on_with_what_there_is(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The older copy of a database: what came after it is unknown, and nothing of it is deleted."""
    shutil.copy(home / "state.db", home.parent / "backup.db")
    state = open_state(settings(home))
    late = add_file(state)
    state.database.close()
    age(home)
    shutil.copy(home.parent / "backup.db", home / "state.db")
    where = ["--state-dir", str(home)]
    assert run(["adopt", "--check", *where]) == 0
    assert "to the trash" in capsys.readouterr().out
    refused(settings(home))
    assert run(["adopt", *where]) == 2  # nobody to ask
    assert "--yes" in capsys.readouterr().err
    assert run(["adopt", "--yes", *where]) == 0
    state = open_state(settings(home))
    sweep_all(state)
    assert set(state.files.entries.trashed()) == {late}
    state.database.close()


def test_a_folder_tied_by_mistake_is_tied_back_without_a_loss(home: Path, tmp_path: Path) -> None:
    before = all_entries(home)
    wrong = f"sqlite:///{tmp_path}/wrong.db"
    assert run(["adopt", "--yes", "--state-dir", str(home), "--database-url", wrong]) == 0
    state = open_state(settings(home, database_url=wrong))
    sweep_all(state)
    assert state.files.entries.entries() == {}
    state.database.close()
    refused(settings(home))
    assert run(["adopt", "--yes", "--state-dir", str(home)]) == 0
    state = open_state(settings(home))
    assert {*state.files.entries.entries(), *state.fine_tuning_jobs.entries.entries()} == before
    assert state.fine_tuning_jobs.moving()
    state.database.close()


def test_nothing_is_adopted_under_a_running_server(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = open_state(settings(home))
    assert run(["adopt", "--yes", "--state-dir", str(home)]) == 2
    assert "a server is using" in capsys.readouterr().err
    state.database.close()
    assert run(["adopt", "--yes", "--state-dir", str(home)]) == 0


def test_adopting_takes_over_jobs_of_a_place_that_is_gone(home: Path) -> None:
    """The folder's own name in the database was lost; its jobs are told by their ids."""
    (home / "fine_tuning" / "place").unlink()
    assert run(["adopt", "--yes", "--state-dir", str(home)]) == 0
    state = open_state(settings(home))
    assert len(state.fine_tuning_jobs.moving()) == 2
    state.database.close()


def test_keys_alone_need_no_folder(tmp_path: Path) -> None:
    state = open_state(settings(tmp_path / "a"))
    with state.database.write() as session:
        session.add(Key(id="a", name="a", owner="a", secret_hash=bytes(32), scopes=["files"], created_at=1.0))
    state.database.close()
    shutil.rmtree(tmp_path / "a" / "files")
    open_state(settings(tmp_path / "a")).database.close()

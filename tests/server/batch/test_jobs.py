"""The rows of batches, on both databases: leases, results stored once, and an end that is whole or has not happened."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from sqlalchemy import func, select

from tests.server.batch.making import Server, jobs_in, lines_of, make, result, wall_clock_at
from tramontane.server.batch.jobs import (
    CANCELLATION_REQUESTED,
    CANCELLED,
    RUNNING,
    SUCCESS,
    TIMEOUT_EXCEEDED,
    BatchJobs,
    JobListing,
)
from tramontane.server.batch.results import finish
from tramontane.server.errors import ApiError
from tramontane.server.lease import LEASE_S, LeaseLostError, LeaseWatch
from tramontane.server.store.contents import ContentStore
from tramontane.server.store.database import Database
from tramontane.server.store.errors import DiskFullError
from tramontane.server.store.tables import BatchResult, File


@pytest.fixture
def jobs(database: Database, tmp_path: Path) -> BatchJobs:
    return jobs_in(database, tmp_path / "state")


def test_a_job_has_one_holder_until_it_no_longer_shows_itself(jobs: BatchJobs) -> None:
    made = make(jobs)
    first, second = Server(jobs), Server(jobs)
    claimed = first.claim()
    assert claimed is not None
    assert (claimed.id, claimed.status) == (made.id, RUNNING)
    for second.now in (0.0, LEASE_S - 1):
        assert second.claim() is None
    jobs.append(made.id, first.holder, [result(0)])
    jobs.renew(made.id, first.holder)
    for second.now in (LEASE_S + 1, 2 * LEASE_S):
        assert second.claim() is None  # it has shown itself
    assert first.claim() is None  # it has it already
    second.now = 2 * LEASE_S + 1
    taken = second.claim()
    assert taken is not None
    for late in (
        lambda: jobs.append(made.id, first.holder, [result(1)]),
        lambda: jobs.renew(made.id, first.holder),
        lambda: finish(jobs, made.id, first.holder, SUCCESS),
    ):
        with pytest.raises(LeaseLostError):
            late()
    assert jobs.finished_lines(made.id) == {0}
    jobs.append(made.id, second.holder, [result(1), result(2, 400)])
    ended = finish(jobs, made.id, second.holder, SUCCESS)
    assert (ended.num_succeeded, ended.num_failed, ended.num_requests) == (2, 1, 3)


@pytest.mark.parametrize("jump_s", [-86400.0, -3600.0, 3600.0, 10 * 365 * 86400.0])
def test_a_wall_clock_that_jumps_neither_stalls_a_job_nor_gives_it_to_two(jobs: BatchJobs, jump_s: float) -> None:
    crashed, other, skewed = (Server(jobs) for _ in range(3))
    with wall_clock_at(-jump_s):
        made, cancelled = make(jobs), make(jobs)
        assert crashed.claim() is not None
        with wall_clock_at(2 * jump_s):
            assert jobs.cancel(cancelled.id, "local").status == CANCELLED
            assert skewed.claim() is None
        jobs.renew(made.id, crashed.holder)  # it is not lost to a jump
    assert jobs.cancel(made.id, "local").status == CANCELLATION_REQUESTED
    assert other.claim() is None
    other.now = LEASE_S  # of which `crashed` makes no use
    taken = other.claim()
    assert taken is not None
    assert taken.id == made.id
    skewed.now = 100 * LEASE_S
    assert skewed.claim() is None  # what it has seen of it is out of date
    with pytest.raises(LeaseLostError):
        jobs.renew(made.id, crashed.holder)
    with wall_clock_at(jump_s):
        assert finish(jobs, made.id, other.holder, CANCELLED).status == CANCELLED


def test_a_job_that_could_not_be_given_back_is_taken_up_again(jobs: BatchJobs) -> None:
    made = make(jobs)
    server = Server(jobs)
    assert server.claim() is not None
    server.working.clear()
    again = server.claim()
    assert again is not None
    assert again.id == made.id


def test_owners_take_turns(jobs: BatchJobs) -> None:
    alices = [make(jobs, owner="alice").id for _ in range(6)]
    bob, carol = make(jobs, owner="bob"), make(jobs, owner="carol")
    one, two = Server(jobs), Server(jobs)
    claimed = [server.claim(max_per_owner=2) for server in (one, two, one, two, one, one, two, two)]
    owners = [None if job is None else job.owner for job in claimed]
    assert owners == ["alice", "bob", "carol", "alice", "alice", None, "alice", None]
    assert [job.id for job in claimed if job is not None and job.owner == "alice"] == alices[:4]
    assert not jobs.is_anyone_kept_waiting(["alice"])
    jobs.release(two.holder, job_id=bob.id)
    assert jobs.is_anyone_kept_waiting(["alice"])
    jobs.release(one.holder, job_id=carol.id)
    assert jobs.is_anyone_kept_waiting(["alice", "bob"])
    assert not jobs.is_anyone_kept_waiting(["alice", "bob"], but_for=[carol.id])


def test_servers_that_ask_at_once_get_different_jobs(jobs: BatchJobs) -> None:
    made = {make(jobs).id for _ in range(6)}
    claimed: list[str] = []

    def take() -> None:
        server = Server(jobs)
        while server.claim() is not None:
            pass
        claimed.extend(server.working)

    threads = [threading.Thread(target=take) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == sorted(made)


def test_what_is_released_is_free_at_once(jobs: BatchJobs) -> None:
    make(jobs)
    first, second = Server(jobs), Server(jobs)
    first.claim()
    jobs.release(second.holder)
    assert second.claim() is None
    jobs.release(first.holder)
    assert second.claim() is not None


def test_an_end_writes_files_in_the_order_of_the_requests(jobs: BatchJobs) -> None:
    job = make(jobs, 5)
    holder = Server(jobs).holder
    jobs.claim(holder, LeaseWatch())
    jobs.append(job.id, holder, [result(4), result(2, 422)])
    jobs.append(job.id, holder, [result(0)])
    ended = finish(jobs, job.id, holder, TIMEOUT_EXCEEDED)
    good = [json.loads(line) for line in lines_of(jobs, ended.output_file)]
    bad = [json.loads(line) for line in lines_of(jobs, ended.error_file)]
    assert [line["custom_id"] for line in good] == ["id-0", "id-4"]
    assert good[0]["response"] == {"status_code": 200, "body": {"message": "m0"}}
    assert [line["custom_id"] for line in bad] == ["id-2", "id-1", "id-3"]
    assert [(line["error"] or {}).get("code") for line in bad] == [None, "batch_expired", "batch_expired"]
    assert len({line["id"] for line in good + bad}) == 5
    assert ended.errors == [{"message": "m2", "count": 1}]
    with jobs.database.read() as session:
        assert session.scalar(select(func.count()).select_from(BatchResult)) == 0
        rows = session.scalars(select(File)).all()
    assert {(row.sample_type, row.num_lines) for row in rows} == {("batch_result", 2), ("batch_error", 3)}
    with pytest.raises(FileNotFoundError):
        jobs.contents.open(job.requests_id)


def test_an_end_without_room_on_the_disk_has_not_happened(jobs: BatchJobs, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make(jobs, 2)
    holder = Server(jobs).holder
    jobs.claim(holder, LeaseWatch())
    jobs.append(job.id, holder, [result(0), result(1, 400)])
    published: list[str] = []

    def full(store: ContentStore, incoming: object) -> None:
        if published:
            raise DiskFullError("the server's disk is full")
        published.append("one")

    with monkeypatch.context() as patch:
        patch.setattr(ContentStore, "publish", full)
        with pytest.raises(DiskFullError):
            finish(jobs, job.id, holder, SUCCESS)
    assert jobs.finished_lines(job.id) == {0, 1}
    ended = finish(jobs, job.id, holder, SUCCESS)
    assert len(lines_of(jobs, ended.output_file)) == len(lines_of(jobs, ended.error_file)) == 1


def test_cancelling(jobs: BatchJobs) -> None:
    waiting, running = make(jobs), make(jobs)
    assert jobs.cancel(waiting.id, "local").status == CANCELLED
    holder = Server(jobs).holder
    claimed = jobs.claim(holder, LeaseWatch())
    assert claimed is not None
    assert claimed.id == running.id
    with pytest.raises(ApiError, match="cancel it first"):
        jobs.delete(running.id, "local")
    for _ in range(2):
        assert jobs.cancel(running.id, "local").status == CANCELLATION_REQUESTED
    finish(jobs, running.id, holder, CANCELLED)
    assert jobs.cancel(running.id, "local").status == CANCELLED
    jobs.delete(running.id, "local")
    with pytest.raises(ApiError, match="does not exist"):
        jobs.get(running.id, "local")


def test_one_that_is_to_end_can_be_deleted_and_its_server_lets_go(jobs: BatchJobs) -> None:
    """It may wait for a full disk to have room for its results, and keep its requests meanwhile."""
    job, holder = make(jobs), Server(jobs).holder
    assert jobs.claim(holder, LeaseWatch()) is not None
    jobs.cancel(job.id, "local")
    jobs.delete(job.id, "local")
    assert jobs.contents.folder.entries() == {}
    with pytest.raises(LeaseLostError):
        finish(jobs, job.id, holder, CANCELLED)


def test_listing(jobs: BatchJobs) -> None:
    ids = [make(jobs, dialect=dialect).id for dialect in ("mistral", "openai", "mistral")]
    with jobs.database.write() as session:
        for n, job_id in enumerate(ids):
            job = jobs.get(job_id, "local")
            job.details = {"kind": f"k{n}", "both": "yes"}
            session.merge(job)

    def found(**options: object) -> list[str]:
        return [job.id for job in jobs.list("local", JobListing(**options)).jobs]  # type: ignore[arg-type]

    assert found() == ids[::-1]
    assert found(is_ascending=True) == ids
    assert found(page=1, page_size=2) == [ids[0]]
    assert found(after=ids[2]) == [ids[1], ids[0]]
    assert found(dialect="openai") == found(details={"kind": "k1", "both": "yes"}) == [ids[1]]
    assert found(details={"kind": "k1'; DROP TABLE batch_jobs; --"}) == found(model="other") == []
    assert found(statuses=["QUEUED"], created_after=0.0, key_id="local") == ids[::-1]
    assert jobs.list("somebody else", JobListing()).total == 0

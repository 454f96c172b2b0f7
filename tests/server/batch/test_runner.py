"""The runner, with answers made up here: what is computed, how much at once, and what faults leave behind."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.server.batch.making import jobs_in, lines_of, make, wall_clock_at
from tramontane.server.auth import Caller, Gate, caller_of
from tramontane.server.batch import runner as runner_module
from tramontane.server.batch.jobs import CANCELLED, FAILED, RUNNING, SUCCESS, TIMEOUT_EXCEEDED, UNFINISHED, BatchJobs
from tramontane.server.batch.runner import BatchRunner
from tramontane.server.keys import KeyOptions, create_key, revoke_key
from tramontane.server.limits import RateLimits
from tramontane.server.store.database import Database, open_database
from tramontane.server.store.errors import DiskFullError
from tramontane.server.store.tables import BatchJob

PATIENCE_S = 60.0


class Answers:
    """Counts what is asked. Requests numbered `held_from` and above wait until `gate` is open."""

    def __init__(self) -> None:
        self.asked: Counter[int] = Counter()
        self.at_once = self.most_at_once = 0
        self.held_from = 1_000_000
        self.gate = asyncio.Event()
        self.status: Callable[[int], int] = lambda n: 200
        self.callers: set[str] = set()

    async def __call__(
        self, endpoint: str, body: Mapping[str, Any], caller: Caller, dialect: str
    ) -> tuple[int, dict[str, Any]]:
        n = body["n"]
        self.asked[n] += 1
        self.callers.add(caller.key_id)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(0)
            if n >= self.held_from:
                await self.gate.wait()
            return self.status(n), {"n": n, "message": "as told"}
        finally:
            self.at_once -= 1


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Database]:
    opened = open_database(f"sqlite:///{tmp_path}/state.db")
    yield opened
    opened.close()


@pytest.fixture
def jobs(sqlite: Database, tmp_path: Path) -> BatchJobs:
    return jobs_in(sqlite, tmp_path)


@asynccontextmanager
async def working(jobs: BatchJobs, answers: Answers, concurrency: int = 3):  # type: ignore[no-untyped-def]
    runner = BatchRunner(jobs, Gate(jobs.database, RateLimits()), answers, concurrency=concurrency)
    task = asyncio.create_task(runner.run())
    try:
        yield runner
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not is_so():
            await asyncio.sleep(0.01)


async def ended(jobs: BatchJobs, job: BatchJob) -> BatchJob:
    await until(lambda: jobs.get(job.id, job.owner).status not in UNFINISHED)
    return jobs.get(job.id, job.owner)


def run(test: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(3 * PATIENCE_S):
            await test

    asyncio.run(bounded())


def ids(jobs: BatchJobs, file_id: str | None) -> list[str]:
    return [json.loads(line)["custom_id"] for line in lines_of(jobs, file_id)]


def test_every_request_is_answered_once_a_few_at_a_time(jobs: BatchJobs) -> None:
    async def test() -> None:
        answers = Answers()
        answers.status = lambda n: 400 if n % 5 == 0 else 200
        async with working(jobs, answers):
            made = [make(jobs, 40) for _ in range(3)]
            for job in made:
                done = await ended(jobs, job)
                assert (done.status, done.num_succeeded, done.num_failed) == (SUCCESS, 32, 8)
                assert ids(jobs, done.output_file) == [f"id-{n}" for n in range(40) if n % 5]
                assert ids(jobs, done.error_file) == [f"id-{n}" for n in range(0, 40, 5)]
                assert done.errors == [{"message": "as told", "count": 8}]
        assert set(answers.asked.values()) == {3}
        assert 1 < answers.most_at_once <= 3

    run(test())


def test_one_owners_many_batches_keep_nobody_waiting(jobs: BatchJobs) -> None:
    """One owner's 33 batches used to be worked on before the next owner's first request."""

    async def test() -> None:
        answers = Answers()
        answers.held_from = 0  # none of hers ever ends
        for _ in range(33):
            make(jobs, 200, owner="alice")
        async with working(jobs, answers) as runner:
            await until(lambda: answers.at_once == 3)
            bob = make(jobs, [{"custom_id": "b", "body": {"n": -1}}], owner="bob")
            runner.wake()
            assert (await ended(jobs, bob)).num_succeeded == 1
            assert answers.most_at_once == 4

    run(test())


def test_a_batch_gives_way_where_there_is_no_room_for_another_owner(
    jobs: BatchJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "MAX_JOBS", 4)
    monkeypatch.setattr(runner_module, "TURN_S", 0.0)
    monkeypatch.setattr(runner_module, "CHECK_S", 0.05)

    async def test() -> None:
        answers = Answers()
        answers.held_from = 5
        long = [make(jobs, 10, owner=owner) for owner in ("alice", "alice", "carol", "dave")]
        async with working(jobs, answers, concurrency=30) as runner:
            await until(lambda: all(jobs.get(job.id, job.owner).lease_holder for job in long))
            for n in range(6):
                short = make(jobs, 3, owner=f"bob {n}")
                runner.wake()
                assert (await ended(jobs, short)).status == SUCCESS
            answers.gate.set()
            for job in long:
                done = await ended(jobs, job)
                assert ids(jobs, done.output_file) == [f"id-{n}" for n in range(10)]

    run(test())


def test_what_is_being_stored_is_over_before_a_batch_is_given_back(
    jobs: BatchJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often its task is cancelled meanwhile: a line that was stored late used to be answered twice."""
    is_storing, may_store = threading.Event(), threading.Event()
    append = jobs.append

    def late(*given: Any) -> None:
        is_storing.set()
        may_store.wait(PATIENCE_S)
        append(*given)

    monkeypatch.setattr(jobs, "append", late)

    async def test() -> None:
        made = make(jobs, 3)
        async with working(jobs, Answers()) as runner:
            await until(is_storing.is_set)
            work = runner._working[made.id].task
            for _ in range(3):
                work.cancel()
                await asyncio.sleep(0.05)
            assert not work.done()
            may_store.set()
            assert (await ended(jobs, made)).num_succeeded == 3

    run(test())


def test_a_wall_clock_that_jumps_ends_no_batch_before_its_time(jobs: BatchJobs) -> None:
    async def test() -> None:
        answers = Answers()
        answers.held_from = 3
        job = make(jobs, 6, timeout_s=3600)
        async with working(jobs, answers) as runner:
            await until(lambda: answers.at_once == 3)
            for jump_s in (-86400.0, 10 * 365 * 86400.0):
                with wall_clock_at(jump_s):
                    runner.wake()
                    await asyncio.sleep(0.1)
                    assert jobs.get(job.id, job.owner).status == RUNNING
            answers.gate.set()
            assert (await ended(jobs, job)).status == SUCCESS
        with wall_clock_at(10 * 365 * 86400.0):  # it is wrong when the next server begins
            job = make(jobs, 6, timeout_s=3600)
        with wall_clock_at(20 * 365 * 86400.0):
            async with working(jobs, answers):
                assert (await ended(jobs, job)).status == SUCCESS

    run(test())


def test_a_restart_goes_on_where_it_was(jobs: BatchJobs) -> None:
    async def test() -> None:
        first, second = Answers(), Answers()
        first.held_from = 10
        job = make(jobs, 30)
        async with working(jobs, first):
            await until(lambda: len(jobs.finished_lines(job.id)) == 10 and first.at_once == 3)
        stored = jobs.finished_lines(job.id)
        assert stored == set(range(10))
        async with working(jobs, second):
            done = await ended(jobs, job)
        assert not stored & set(second.asked)
        assert set(second.asked) == set(range(30)) - stored
        assert ids(jobs, done.output_file) == [f"id-{n}" for n in range(30)]

    run(test())


def test_a_full_queue_and_a_stopping_engine_are_no_answers(jobs: BatchJobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "BUSY_RETRY_S", 0.001)

    async def test() -> None:
        answers = Answers()
        answers.status = lambda n: {1: 429, 2: 503}.get(answers.asked[n], 200)
        async with working(jobs, answers):
            done = await ended(jobs, make(jobs, 4))
        assert (done.num_succeeded, done.num_failed) == (4, 0)
        assert set(answers.asked.values()) == {3}

    run(test())


def test_cancelling_keeps_what_is_answered(jobs: BatchJobs) -> None:
    async def test() -> None:
        answers = Answers()
        answers.held_from = 10
        async with working(jobs, answers) as runner:
            job = make(jobs, 50)
            runner.wake()
            await until(lambda: len(jobs.finished_lines(job.id)) == 10 and answers.at_once == 3)
            jobs.cancel(job.id, job.owner)
            runner.wake()
            done = await ended(jobs, job)
            assert answers.at_once == 0
        assert done.status == CANCELLED
        assert ids(jobs, done.output_file) == [f"id-{n}" for n in range(10)]
        assert (done.num_succeeded, done.error_file) == (10, None)

    run(test())


def test_a_batch_ends_when_its_time_is_over(jobs: BatchJobs) -> None:
    async def test() -> None:
        answers = Answers()
        answers.held_from = 0
        async with working(jobs, answers):
            done = await ended(jobs, make(jobs, 5, timeout_s=0.5))
        assert done.status == TIMEOUT_EXCEEDED
        assert (done.output_file, done.num_succeeded) == (None, 0)
        assert sorted(ids(jobs, done.error_file)) == [f"id-{n}" for n in range(5)]

    run(test())


def test_a_revoked_key_ends_its_batches(jobs: BatchJobs, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        key, _ = create_key(jobs.database, KeyOptions("wind"))
        answers = Answers()
        answers.held_from = 0
        job = make(jobs, 20, caller=caller_of(key))
        async with working(jobs, answers):
            await until(lambda: answers.at_once == 3)
            revoke_key(jobs.database, key.id)
            await asyncio.sleep(1.1)  # how long a key is remembered
            answers.gate.set()
            done = await ended(jobs, job)
        assert answers.callers == {key.id}
        assert done.status == FAILED
        assert "was revoked" in done.errors[0]["message"]
        assert len(ids(jobs, done.output_file)) == done.num_succeeded < 20

    run(test())


def test_the_limits_of_a_key_hold_for_its_batches_and_nobody_else_waits(jobs: BatchJobs) -> None:
    async def test() -> None:
        slow, _ = create_key(jobs.database, KeyOptions("slow", requests_per_minute=2))
        fast, _ = create_key(jobs.database, KeyOptions("fast"))
        answers = Answers()
        limited, other = make(jobs, 10, caller=caller_of(slow)), make(jobs, 10, caller=caller_of(fast))
        async with working(jobs, answers):
            started = time.monotonic()
            assert (await ended(jobs, other)).num_succeeded == 10
            most = 3 + (time.monotonic() - started) / 30
            assert jobs.get(limited.id, slow.owner).num_succeeded <= most

    run(test())


def test_a_failure_of_the_server_is_tried_again(
    jobs: BatchJobs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(runner_module, "RETRY_S", 0.05)
    monkeypatch.setattr(runner_module, "CHECK_S", 0.05)
    whole = BatchJobs.append
    failures = iter([True, True])

    def append(self: BatchJobs, *arguments: Any) -> None:
        if next(failures, False):
            raise DiskFullError("the server's disk is full")
        whole(self, *arguments)

    monkeypatch.setattr(BatchJobs, "append", append)

    async def test() -> None:
        async with working(jobs, Answers()):
            done = await ended(jobs, make(jobs, 10))
        assert (done.status, done.num_succeeded) == (SUCCESS, 10)
        assert ids(jobs, done.output_file) == [f"id-{n}" for n in range(10)]

    run(test())
    told = [record for record in caplog.records if record.levelname == "ERROR"]
    assert told
    assert all("disk is full" in record.getMessage() and record.exc_info is None for record in told)


def test_requests_that_are_gone_end_the_batch(jobs: BatchJobs) -> None:
    async def test() -> None:
        job = make(jobs)
        jobs.contents.delete(job.requests_id)
        async with working(jobs, Answers()):
            done = await ended(jobs, job)
        assert done.status == FAILED
        assert done.errors == [{"message": "the batch's requests are gone from the server's store", "count": 1}]

    run(test())

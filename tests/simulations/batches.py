"""Servers that share the jobs of batches, each with a clock of its own: they die in the middle of anything, stand still
for as long as they like and go on, start again, and see the wall clock jump, while owners cancel and delete. Whatever
the order, each request of a batch is answered into its results once, by who holds the lease; every batch ends; and a
batch that nobody cancelled ends with all its results."""

from __future__ import annotations

import atexit
import json
import random
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from sqlalchemy import delete, select

from tests.server.batch.making import Server, jobs_in, lines_of, make, result, wall_clock_at
from tramontane.server.batch.jobs import CANCELLATION_REQUESTED, CANCELLED, SUCCESS, UNFINISHED, BatchJobs
from tramontane.server.batch.results import finish
from tramontane.server.errors import ApiError
from tramontane.server.lease import LEASE_S, LeaseLostError
from tramontane.server.store.database import open_database
from tramontane.server.store.tables import BatchJob, BatchResult, File

OWNERS = ("alice", "bob", "carol")
MAX_PER_OWNER = 2
DAY_S = 86400.0
PATIENCE = 400
"""Turns in which the servers that are left must have ended everything."""


@dataclass
class Batch:
    """What the world knows of one: `by` is who has stored each line's result, `is_over` what its owner may have
    done."""

    owner: str
    num_lines: int
    by: dict[int, str] = field(default_factory=dict)
    is_cancelled: bool = False


def run(seed: int) -> None:
    """Raises AssertionError for a promise that was broken."""
    world = World(random.Random(seed), _jobs())
    try:
        world.run()
    finally:
        world.clear()


class World:
    def __init__(self, rng: random.Random, jobs: BatchJobs) -> None:
        self.rng, self.jobs = rng, jobs
        self.batches: dict[str, Batch] = {}
        self.servers = [Server(jobs) for _ in range(rng.randint(1, 3))]
        self.standing: set[str] = set()  # servers that stand still: alive, and they do not know it
        self.left: dict[tuple[str, str], list[int]] = {}  # by server and job: lines to answer, known at the claim

    def run(self) -> None:
        for _ in range(self.rng.randint(3, 20)):
            with wall_clock_at(self.rng.choice((0.0, 0.0, 0.0, -DAY_S, DAY_S))):
                self.rng.choice((self.turn, self.turn, self.turn, self.owners, self.fate))()
        self.standing.clear()
        for _ in range(PATIENCE):
            if not self.unfinished():
                break
            self.turn()
        assert not self.unfinished(), f"unfinished after {PATIENCE} turns: {self.unfinished()}"
        for job_id in self.batches:
            self.check(job_id)

    def turn(self) -> None:
        """A server that runs does a little: some time passes for all, each by its own clock."""
        for server in self.servers:
            server.now += self.rng.uniform(0.0, LEASE_S)
        running = [server for server in self.servers if server.holder not in self.standing]
        if not running:
            self.servers.append(Server(self.jobs))
            return
        server = self.rng.choice(running)
        if (job := server.claim(max_per_owner=MAX_PER_OWNER)) is not None:
            done = self.jobs.finished_lines(job.id)
            lines = range(self.batches[job.id].num_lines)
            self.left[server.holder, job.id] = [line for line in lines if line not in done]
            self.check_share(server, job)
        for job_id in tuple(server.working):
            self.work(server, job_id)

    def work(self, server: Server, job_id: str) -> None:
        """Show oneself, answer a line or two, end the batch where all is done; or lose the lease, and leave it."""
        try:
            job = self.jobs.renew(job_id, server.holder)
            left = self.left[server.holder, job_id]
            if job.status == CANCELLATION_REQUESTED:
                finish(self.jobs, job_id, server.holder, CANCELLED)
            elif left:
                lines = [left.pop(0) for _ in left[: self.rng.randint(1, 2)]]
                self.jobs.append(job_id, server.holder, [result(line) for line in lines])
                for line in lines:
                    assert line not in self.batches[job_id].by, f"line {line} of {job_id} was answered twice"
                    self.batches[job_id].by[line] = server.holder
                return
            else:
                finish(self.jobs, job_id, server.holder, SUCCESS)
        except LeaseLostError:
            pass
        server.working.remove(job_id)

    def owners(self) -> None:
        """Someone makes a batch, cancels one, or deletes one that has ended."""
        owner, what = self.rng.choice(OWNERS), self.rng.random()
        own = [job_id for job_id, batch in self.batches.items() if batch.owner == owner]
        if what < 0.5 or not own:
            num_lines = self.rng.randint(1, 4)
            self.batches[make(self.jobs, num_lines, owner=owner).id] = Batch(owner, num_lines)
            return
        job_id = self.rng.choice(own)
        with suppress(ApiError):  # it has ended, or for deleting, it has not
            if what < 0.8:
                self.jobs.cancel(job_id, owner)
                self.batches[job_id].is_cancelled = True
            else:
                self.jobs.delete(job_id, owner)
                del self.batches[job_id]

    def fate(self) -> None:
        """A server dies, and perhaps another starts; or it stands still, or goes on."""
        what = self.rng.random()
        if what < 0.4 and self.servers:
            dead = self.servers.pop(self.rng.randrange(len(self.servers)))
            if self.rng.random() < 0.3:  # it was told to end, and had the time
                self.jobs.release(dead.holder)
        elif what < 0.7 and len(self.servers) < 4:
            self.servers.append(Server(self.jobs))
        elif self.servers:
            self.standing ^= {self.rng.choice(self.servers).holder}

    def check_share(self, server: Server, claimed: BatchJob) -> None:
        own = [self.batches[job_id].owner for job_id in server.working if job_id in self.batches]
        assert own.count(claimed.owner) <= MAX_PER_OWNER or claimed.status == CANCELLATION_REQUESTED

    def unfinished(self) -> list[str]:
        with self.jobs.database.read() as session:
            return list(session.scalars(select(BatchJob.id).where(BatchJob.status.in_(UNFINISHED))))

    def check(self, job_id: str) -> None:
        batch = self.batches[job_id]
        job = self.jobs.get(job_id, batch.owner)
        assert job.status == (CANCELLED if batch.is_cancelled else SUCCESS), job.status
        lines = [json.loads(line)["custom_id"] for line in lines_of(self.jobs, job.output_file)]
        assert lines == [f"id-{line}" for line in sorted(batch.by)], f"{job_id}: {lines}"
        assert job.status == CANCELLED or len(lines) == batch.num_lines
        assert job.num_succeeded == len(lines)

    def clear(self) -> None:
        """Nothing of this world is left to the next."""
        with self.jobs.database.write() as session:
            for table in (BatchResult, BatchJob, File):
                session.execute(delete(table))
        for path in self.contents():
            path.unlink()

    def contents(self) -> Iterator[Path]:
        root = Path(self.jobs.contents._root)
        return (path for path in root.rglob("*") if path.is_file())


@cache
def _jobs() -> BatchJobs:
    """One database for all seeds of a process: to make one takes longer than a seed."""
    folder = tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
    atexit.register(folder.cleanup)
    return jobs_in(open_database(f"sqlite:///{folder.name}/state.db"), Path(folder.name))

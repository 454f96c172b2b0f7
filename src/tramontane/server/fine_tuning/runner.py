"""FineTuningRunner: brings every job of this place one step further, again and again, until it has ended.

All that must not be lost is in the database and in the jobs' folders, so that whoever comes after it goes on from
there: a process that has ended is judged, one that was killed, with its server or alone, is begun again from its
checkpoint. Owners take turns: see `turns`.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from tramontane.data.sample_shards import read_labels
from tramontane.errors import TramontaneError
from tramontane.runtime import resolve_device
from tramontane.server.fine_tuning.command import JobFolder, check_command, environment, train_command
from tramontane.server.fine_tuning.jobs import (
    CANCELLATION_REQUESTED,
    CANCELLED,
    ESTIMATED,
    FAILED,
    FAILED_VALIDATION,
    INTERRUPTED,
    INVALID_LINE,
    NOTE,
    QUEUED,
    RUNNING,
    SAMPLE,
    STARTED,
    VALIDATED,
    VALIDATING,
    FineTuningJobs,
    clear,
)
from tramontane.server.fine_tuning.models import FineTunedModels
from tramontane.server.fine_tuning.previews import first_questions, previews
from tramontane.server.fine_tuning.process import Process
from tramontane.server.fine_tuning.progress import MAX_LOSSES, newest_checkpoint, read_progress
from tramontane.server.fine_tuning.room import folder_bytes, is_disk_low, memory_limit_bytes
from tramontane.server.fine_tuning.samples import place_of
from tramontane.server.fine_tuning.turns import Turns, gives_way
from tramontane.server.models import ModelRegistry
from tramontane.server.settings import ServerSettings
from tramontane.server.store.tables import FineTuningJob

log = logging.getLogger(__name__)

TURN_S = 0.5
IDLE_S = 5.0
"""Between looks for work where nothing tells of it sooner: another server may have taken in a job."""
MAX_CHECKS, MAX_CHECKS_PER_OWNER = 3, 1
MAX_INTERRUPTIONS = 3
"""So often in a row training may be killed by its own fault without having come further."""
MAX_PAUSE_S = 60.0
"""Before a job that others have killed, again and again, goes on."""
TIDY_S = 600.0
LOG_CHARS = 4000
"""Of what a job that has failed has printed, in the server's log."""
NO_ROOM = "there was no room left on the server's disk for it"
KILL_AFTER_S = 15.0
PREVIEW_S = 60.0
STOPPED_EARLY = 75
"""What `tramontane finetune` exits with when it was asked to stop and has saved."""


class FineTuningRunner:
    """`run` works until it is cancelled. Of the servers on one state folder, one does."""

    def __init__(self, jobs: FineTuningJobs, models: FineTunedModels, settings: ServerSettings) -> None:
        self.jobs = jobs
        self.models = models
        self.settings = settings
        self._news = asyncio.Event()
        self._processes: dict[str, Process] = {}
        self._asked_to_stop: dict[str, float] = {}
        self._turns, self._checks = Turns(), Turns()
        self._since: dict[str, float] = {}  # when the jobs in training first moved on here, on the monotonic clock
        self._giving_way: set[str] = set()
        self._killed: dict[str, tuple[int, float]] = {}  # by others: how often, and when the job goes on
        self._memory_bytes: int | None = None
        self._on_cpu = resolve_device(settings.device).type == "cpu"
        self._previewed: dict[str, int] = {}

    def wake(self) -> None:
        """There is a job to begin or to cancel."""
        self._news.set()

    async def run(self, registry: ModelRegistry) -> None:
        with (self.jobs.folder / "lock").open("w") as lock:
            while not _try_lock(lock):
                await asyncio.sleep(IDLE_S)
            self._memory_bytes = memory_limit_bytes(self.settings, registry)
            tidied = None
            while True:
                self._news.clear()
                if tidied is None or time.monotonic() - tidied > TIDY_S:
                    tidied = time.monotonic()
                    with suppress(Exception):  # the next time, then
                        await asyncio.to_thread(self.jobs.tidy)
                num_moving = await self._turn(registry)
                with suppress(TimeoutError):
                    async with asyncio.timeout(TURN_S if num_moving else IDLE_S):
                        await self._news.wait()

    async def settled(self, job_id: str, owner: str, *, within_s: float) -> FineTuningJob:
        """The job once its samples have been checked, or as it is after `within_s`. Raises ApiError 404."""
        deadline = time.monotonic() + within_s
        while True:
            job = await asyncio.to_thread(self.jobs.get, job_id, owner)
            if job.status not in (QUEUED, VALIDATING) or time.monotonic() >= deadline:
                return job
            await asyncio.sleep(TURN_S / 2)

    async def _turn(self, registry: ModelRegistry) -> int:
        try:
            jobs = await asyncio.to_thread(self.jobs.moving)
        except Exception:
            log.exception("the fine-tuning jobs cannot be looked up; the next try comes in %g s", IDLE_S)
            return 0
        by_status = {
            name: [job for job in jobs if job.status == name] for name in (QUEUED, VALIDATING, STARTED, RUNNING)
        }
        waiting, active = by_status[STARTED], by_status[RUNNING]
        num_checks = MAX_CHECKS - len(by_status[VALIDATING])
        chosen = self._checks.choose(
            by_status[QUEUED], by_status[VALIDATING], num_checks, per_owner=MAX_CHECKS_PER_OWNER
        )
        chosen |= self._turns.choose(waiting, active, self.settings.fine_tuning_jobs - len(active))
        if waiting and len(active) >= self.settings.fine_tuning_jobs:
            self._make_room(waiting, active)
        await asyncio.to_thread(self._leave_room, [*by_status[VALIDATING], *active])
        for job in jobs:
            if job.status in (QUEUED, STARTED) and job.id not in chosen:
                continue
            try:
                is_trained = await asyncio.to_thread(self._attend, job)
                if job.status == RUNNING:
                    await self._preview(job, registry, is_trained=is_trained)
                if is_trained:
                    await self._publish(job, registry)
            except Exception:
                log.exception("fine-tuning job %s cannot go on now; the next try comes soon", job.id)
        return len(jobs)

    def _attend(self, job: FineTuningJob) -> bool:
        """Whether training has ended well, and its model is to be published."""
        if job.status == QUEUED:
            self._begin(job, VALIDATING)
        elif job.status == VALIDATING:
            self._watch_check(job)
        elif job.status == STARTED:
            self._begin(job, RUNNING)
        elif job.status == RUNNING:
            return self._watch_training(job)
        elif job.status == CANCELLATION_REQUESTED:
            self._cancel(job)
        return False

    def _begin(self, job: FineTuningJob, status: str) -> None:
        begun = self.jobs.update(job, status)
        if begun is not None:
            self._start(begun)

    def _start(self, job: FineTuningJob) -> None:
        """Start the process of a job that is VALIDATING or RUNNING."""
        folder = self._folder(job)
        is_check = job.status == VALIDATING
        command = (check_command if is_check else train_command)(job, folder, self.settings)
        niceness = 0 if is_check else self.settings.fine_tuning_nice  # somebody waits for the check
        self._since.pop(job.id, None)
        self._process(job).start(
            command, environment(self.settings), niceness=niceness, memory_bytes=self._memory_bytes
        )

    def _make_room(self, waiting: Sequence[FineTuningJob], active: Sequence[FineTuningJob]) -> None:
        """Ask a job to save and to end, where another owner's has waited for long enough."""
        now = time.monotonic()
        seconds = {job.id: now - self._since[job.id] for job in active if job.id in self._since}
        job = gives_way(waiting, active, seconds, self._giving_way)
        if job is not None:
            self._giving_way.add(job.id)
            self._process(job).signal(signal.SIGTERM)

    def _leave_room(self, jobs: Sequence[FineTuningJob]) -> None:
        """Where the disk is nearly full, end the job that takes most of it."""
        if not jobs or not is_disk_low(self.jobs.folder):
            return
        job = max(jobs, key=lambda job: folder_bytes(self._folder(job).path))
        self._process(job).signal(signal.SIGKILL)
        self._end(job, FAILED_VALIDATION if job.status == VALIDATING else FAILED, NO_ROOM)

    def _end(self, job: FineTuningJob, status: str, error: str | None = None) -> None:
        """The job ends without a model. What is known of it goes to the database, and its folder with all the rest."""
        folder = self._folder(job)
        losses = read_progress(folder.run).losses(MAX_LOSSES)
        values = {} if error is None else {"error": error}
        if self.jobs.update(job, status, losses=losses, **values) is None:
            return
        if status == FAILED:
            log.warning("fine-tuning job %s has failed: %s", job.id, self._process(job).last_words(LOG_CHARS))
        self._forget(job.id)
        clear(folder.path, keep=None)

    def _forget(self, job_id: str) -> None:
        for known in (self._processes, self._asked_to_stop, self._previewed, self._since, self._killed):
            known.pop(job_id, None)
        self._giving_way.discard(job_id)

    def _watch_check(self, job: FineTuningJob) -> None:
        process = self._process(job)
        if process.is_alive:
            return
        code = process.exit_code
        if code is None:
            self._begin_again(job, FAILED_VALIDATION, "the check of the samples was killed")
        elif code == 0:
            self._validated(job, json.loads(process.output))
        else:
            self._not_valid(job, process)

    def _validated(self, job: FineTuningJob, estimate: dict[str, Any]) -> None:
        folder = self._folder(job)
        skipped = estimate.pop("skipped", [])
        if skipped:
            self.jobs.say(
                job.id, INVALID_LINE, [_problem(folder, problem, problem["split"] == "valid") for problem in skipped]
            )
        if notes := estimate.pop("notes", []):
            self.jobs.say(job.id, NOTE, [{"message": note} for note in notes])
        told = {"message": estimate["summary"], "memory_bytes": estimate["memory_bytes"]}
        self.jobs.say(job.id, ESTIMATED, [told])
        wrong = _undeclared_labels(job, folder) or self._too_large(estimate)
        if wrong is not None:
            self._end(job, FAILED_VALIDATION, wrong)
            return
        self.jobs.update(job, STARTED if job.auto_start else VALIDATED, estimate=estimate, num_interruptions=0)
        self.wake()

    def _not_valid(self, job: FineTuningJob, process: Process) -> None:
        folder = self._folder(job)
        error = self._told(process)
        with suppress(ValueError):
            found = json.loads(process.output)
            is_held_out = found["file"] == str(folder.held_out)
            problems = [_problem(folder, problem, is_held_out) for problem in found["problems"]]
            self.jobs.say(job.id, INVALID_LINE, problems)
            first = problems[0]
            where = f"file {first['file_id']}, " if first["file_id"] else ""
            error = f"{found['num_invalid']} invalid lines; the first: {where}line {first['line']}: {first['message']}"
        self._end(job, FAILED_VALIDATION, error)

    def _too_large(self, estimate: Mapping[str, Any]) -> str | None:
        """What is wrong where a job needs more memory than one may take; a GPU's is its own matter."""
        limit, needed = self._memory_bytes, estimate["memory_bytes"]
        if not self._on_cpu or limit is None or needed <= limit:
            return None
        return (
            f"it needs about {needed / 2**30:.1f} GiB of memory, and a job may take {limit / 2**30:.1f} GiB "
            "(fine_tuning_memory_gib); shorten the longest samples, or lower seq_len"
        )

    def _watch_training(self, job: FineTuningJob) -> bool:
        process = self._process(job)
        is_alive = process.is_alive  # before its files are read, so that what it wrote last is seen
        self._note_progress(job)
        if is_alive:
            return False
        code = process.exit_code
        if code == 0 and self._folder(job).model.is_dir():
            return True
        if code in (STOPPED_EARLY, None) and job.id in self._giving_way:
            self._forget(job.id)
            self.jobs.update(job, STARTED)
            self.jobs.say(job.id, INTERRUPTED, [{"message": "another owner's job has its turn; it goes on after that"}])
            self.wake()
        elif code is None or code == STOPPED_EARLY:
            self._begin_again(job, FAILED, "training was killed")
        else:
            self._end(job, FAILED, self._told(process))
        return False

    def _note_progress(self, job: FineTuningJob) -> None:
        """What was trained a second time after an interruption is no progress."""
        progress = read_progress(self._folder(job).run)
        known_tokens = job.trained_tokens or 0
        if job.estimate is None or progress.trained_tokens < known_tokens:
            return
        times = {each["step_number"]: each["created_at"] for each in job.checkpoints}
        now = time.time()
        checkpoints = [
            {**each, "created_at": times.get(each["step_number"], now)}
            for each in progress.checkpoints(job.estimate["num_steps"])
        ]
        moved_on = progress.trained_tokens > known_tokens
        if moved_on:
            job.num_interruptions = 0
            self._killed.pop(job.id, None)
            self._since.setdefault(job.id, time.monotonic())
        if moved_on or checkpoints != job.checkpoints:
            self.jobs.update(
                job,
                checkpoints=checkpoints,
                trained_tokens=progress.trained_tokens,
                num_interruptions=job.num_interruptions,
            )

    def _begin_again(self, job: FineTuningJob, failed: str, what: str) -> None:
        process = self._process(job)
        told = f"{what}{f' ({process.complaint})' if process.complaint else ''}"
        is_own_fault = process.was_its_own_fault
        if is_own_fault and job.num_interruptions >= MAX_INTERRUPTIONS:
            self._end(job, failed, f"{told} {job.num_interruptions + 1} times without getting further")
            return
        if not is_own_fault and not self._may_go_on(job.id):
            return
        updated = self.jobs.update(job, num_interruptions=job.num_interruptions + is_own_fault)
        if updated is not None:
            self.jobs.say(job.id, INTERRUPTED, [{"message": f"{told}; it goes on from its last checkpoint"}])
            self._giving_way.discard(job.id)
            self._start(updated)

    def _may_go_on(self, job_id: str) -> bool:
        """Whether a job that others have killed goes on now: the first time at once, then after longer and longer."""
        num_kills, resumes_at = self._killed.get(job_id, (0, 0.0))
        now = time.monotonic()
        if num_kills and now < resumes_at:
            return False
        self._killed[job_id] = (num_kills + 1, now + min(MAX_PAUSE_S, 2.0**num_kills))
        return True

    def _cancel(self, job: FineTuningJob) -> None:
        """First politely, so that it saves; then at once."""
        folder = self._folder(job)
        known = self._processes.get(job.id)
        processes = [
            known if known is not None and known.folder == place else Process(place)
            for place in (folder.check_process, folder.train_process)
        ]
        alive = [process for process in processes if process.is_alive]
        if not alive:
            self._end(job, CANCELLED)
            return
        asked = self._asked_to_stop.get(job.id)
        now = time.monotonic()
        if asked is None or now - asked > KILL_AFTER_S:
            self._asked_to_stop.setdefault(job.id, now)
            for process in alive:
                process.signal(signal.SIGTERM if asked is None else signal.SIGKILL)

    async def _preview(self, job: FineTuningJob, registry: ModelRegistry, *, is_trained: bool) -> None:
        """Ask what the newest checkpoint answers, once; before the first, what the base does."""
        base = registry.find(job.model)
        if base is None or job.method != "chat":
            return
        folder = self._folder(job)
        newest: Path | None
        if is_trained and job.estimate is not None:
            step, newest = job.estimate["num_steps"], folder.model
        else:
            step, newest = newest_checkpoint(folder.run) or (0, None)
        if step <= self._previewed.get(job.id, -1):
            return
        if job.id not in self._previewed:  # begun by another server, perhaps
            told = [e.data["step"] for e in await asyncio.to_thread(self.jobs.events, job.id) if e.name == SAMPLE]
            self._previewed[job.id] = max(told, default=-1)
            if step <= self._previewed[job.id]:
                return
        questions = await asyncio.to_thread(
            first_questions, folder.held_out if job.validation_files else folder.samples
        )
        self._previewed[job.id] = step
        with suppress(TimeoutError):  # a busy server has no time for it
            async with asyncio.timeout(PREVIEW_S):
                found = await previews(base, newest, questions, owner=job.owner, salt=job.id)
                await asyncio.to_thread(self.jobs.say, job.id, SAMPLE, [{"step": step, **each} for each in found])

    async def _publish(self, job: FineTuningJob, registry: ModelRegistry) -> None:
        folder = self._folder(job)
        losses = (await asyncio.to_thread(read_progress, folder.run)).losses(MAX_LOSSES)
        try:
            model = await self.models.publish(job, registry, losses)
        except TramontaneError as error:
            await asyncio.to_thread(self._end, job, FAILED, str(error))
            return
        self._forget(job.id)
        await asyncio.to_thread(self.jobs.tidy)
        log.info("fine-tuning job %s has made %s", job.id, model.name)

    def _process(self, job: FineTuningJob) -> Process:
        """Of what the job's status says is going on; kept, so that a child of this server is waited for."""
        folder = self._folder(job)
        place = folder.check_process if job.status in (QUEUED, VALIDATING) else folder.train_process
        known = self._processes.get(job.id)
        if known is None or known.folder != place:
            known = self._processes[job.id] = Process(place)
        return known

    def _folder(self, job: FineTuningJob) -> JobFolder:
        return JobFolder(self.jobs.folder_of(job.id))

    def _told(self, process: Process) -> str:
        """Why a process says it has failed."""
        complaint = process.complaint.removeprefix("error: ")
        limit = self._memory_bytes
        if limit is not None and any(sign in complaint for sign in ("MemoryError", "alloc", "Cannot allocate")):
            return f"it needs more memory than the {limit / 2**30:.3g} GiB a job may take (fine_tuning_memory_gib)"
        return complaint or "it ended without a word"


def _try_lock(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _problem(folder: JobFolder, problem: dict[str, Any], is_held_out: bool) -> dict[str, Any]:
    """A line that is no sample, by the file that its owner knows."""
    file_id, line = place_of(folder.held_out if is_held_out else folder.samples, problem["line"])
    return {"file_id": file_id, "line": line, "message": problem["message"]}


def _undeclared_labels(job: FineTuningJob, folder: JobFolder) -> str | None:
    """What is wrong where the samples hold labels that the job's targets do not name."""
    if not job.classifier_targets:
        return None
    declared = {target["name"]: target["labels"] for target in job.classifier_targets}
    for target, labels in read_labels(folder.run / "data" / "train")["targets"].items():
        if target not in declared:
            return f"the samples have labels of {target!r}, which classifier_targets does not name"
        for label in labels:
            if label not in declared[target]:
                return f"the samples have the label {label!r} of {target!r}, which classifier_targets does not name"
    return None

"""FineTuningRunner: brings every job of this place one step further, again and again, until it has ended.

All that it knows is in the database and in the jobs' folders, so that whoever comes after it goes on from there: a
process that lives is watched, one that has ended is judged, one that was killed is begun again from its checkpoint.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from tramontane.data.sample_shards import read_labels
from tramontane.errors import TramontaneError
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
)
from tramontane.server.fine_tuning.models import FineTunedModels
from tramontane.server.fine_tuning.previews import first_questions, previews
from tramontane.server.fine_tuning.process import Process
from tramontane.server.fine_tuning.progress import newest_checkpoint, read_progress
from tramontane.server.fine_tuning.samples import place_of
from tramontane.server.models import ModelRegistry
from tramontane.server.settings import ServerSettings
from tramontane.server.store.tables import FineTuningJob

log = logging.getLogger(__name__)

TURN_S = 0.5
IDLE_S = 5.0
"""Between looks for work where nothing tells of it sooner: another server may have taken in a job."""
MAX_CHECKS = 2
MAX_INTERRUPTIONS = 3
"""So often in a row training may be killed without having come further; then something must be wrong with it."""
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
        self._previewed: dict[str, int] = {}

    def wake(self) -> None:
        """There is a job to begin or to cancel."""
        self._news.set()

    async def run(self, registry: ModelRegistry) -> None:
        with (self.jobs.folder / "lock").open("w") as lock:
            while not _try_lock(lock):
                await asyncio.sleep(IDLE_S)
            while True:
                self._news.clear()
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
        num_free = {
            QUEUED: MAX_CHECKS - sum(job.status == VALIDATING for job in jobs),
            STARTED: self.settings.fine_tuning_jobs - sum(job.status == RUNNING for job in jobs),
        }
        for job in jobs:
            if job.status in num_free:
                num_free[job.status] -= 1
                if num_free[job.status] < 0:
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
        limit = self.settings.fine_tuning_memory_gib
        memory_bytes = None if limit is None else int(limit * 2**30)
        self._process(job).start(command, environment(self.settings), niceness=niceness, memory_bytes=memory_bytes)

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
        undeclared = _undeclared_labels(job, folder)
        if undeclared is not None:
            self.jobs.update(job, FAILED_VALIDATION, error=undeclared)
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
        self.jobs.update(job, FAILED_VALIDATION, error=error)

    def _watch_training(self, job: FineTuningJob) -> bool:
        process = self._process(job)
        is_alive = process.is_alive  # before its files are read, so that what it wrote last is seen
        self._note_progress(job)
        if is_alive:
            return False
        code = process.exit_code
        if code == 0 and self._folder(job).model.is_dir():
            return True
        if code is None or code == STOPPED_EARLY:
            self._begin_again(job, FAILED, "training was killed")
        else:
            self.jobs.update(job, FAILED, error=self._told(process))
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
        if moved_on or checkpoints != job.checkpoints:
            self.jobs.update(
                job,
                checkpoints=checkpoints,
                trained_tokens=progress.trained_tokens,
                num_interruptions=job.num_interruptions,
            )

    def _begin_again(self, job: FineTuningJob, failed: str, what: str) -> None:
        complaint = self._process(job).complaint
        told = f"{what}{f' ({complaint})' if complaint else ''}"
        if job.num_interruptions >= MAX_INTERRUPTIONS:
            self.jobs.update(job, failed, error=f"{told} {job.num_interruptions + 1} times without getting further")
            return
        updated = self.jobs.update(job, num_interruptions=job.num_interruptions + 1)
        if updated is not None:
            self.jobs.say(job.id, INTERRUPTED, [{"message": f"{told}; it goes on from its last checkpoint"}])
            self._start(updated)

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
            self._asked_to_stop.pop(job.id, None)
            self._processes.pop(job.id, None)
            self.jobs.update(job, CANCELLED)
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
                found = await previews(base, newest, questions, salt=job.id)
                await asyncio.to_thread(self.jobs.say, job.id, SAMPLE, [{"step": step, **each} for each in found])

    async def _publish(self, job: FineTuningJob, registry: ModelRegistry) -> None:
        try:
            model = await self.models.publish(job, registry)
        except TramontaneError as error:
            await asyncio.to_thread(self.jobs.update, job, FAILED, error=str(error))
            return
        self._processes.pop(job.id, None)
        self._previewed.pop(job.id, None)
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
        limit = self.settings.fine_tuning_memory_gib
        if limit is not None and any(sign in complaint for sign in ("MemoryError", "alloc", "Cannot allocate")):
            return f"it needs more memory than the {limit:g} GiB a job may take (fine_tuning_memory_gib)"
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

"""FineTunedModels: what jobs have made, served beside its base for as long as its owner keeps it."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import shutil
import time
from collections.abc import Mapping, Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from tramontane.errors import TramontaneError
from tramontane.server.errors import ApiError
from tramontane.server.fine_tuning.command import JobFolder
from tramontane.server.fine_tuning.jobs import SUCCESS, FineTuningJobs, set_status
from tramontane.server.models import ModelRegistry, ServedModel, serve_fine_tuned
from tramontane.server.store.tables import FineTunedModel, FineTuningJob
from tramontane.server.threads import in_pool

log = logging.getLogger(__name__)
SYNC_S = 2.0
"""How soon a server takes notice of what another one on the same state folder has changed."""


class FineTunedModels:
    """Rows of models, and the registry kept equal to them. Coroutines: from the event loop."""

    def __init__(self, jobs: FineTuningJobs) -> None:
        self.jobs = jobs
        self.database = jobs.database
        self._syncing = asyncio.Lock()
        self._served: set[str] = set()
        self._unfit: set[str] = set()  # told of once

    async def watch(self, registry: ModelRegistry) -> None:
        """Serve what is there, and what comes and goes."""
        while True:
            try:
                await self.sync(registry)
            except Exception:
                log.exception("the fine-tuned models cannot be looked up; the next try comes in %g s", SYNC_S)
            await asyncio.sleep(SYNC_S)

    async def sync(self, registry: ModelRegistry) -> None:
        async with self._syncing:
            rows = {row.name: row for row in await asyncio.to_thread(self._of_place)}
            for name in self._served - rows.keys():
                registry.remove(name)
                self._served.discard(name)
            for row in rows.values():
                served = registry.find(row.name)
                if served is None:
                    served = await self._serve(row, registry)
                if served is not None:
                    served.archived, served.title, served.description = row.archived, row.title, row.description

    async def publish(
        self, job: FineTuningJob, registry: ModelRegistry, losses: Mapping[str, Sequence[tuple[int, float]]]
    ) -> FineTunedModel:
        """Serve what `job` has made, then say so, with its `losses`: whoever reads that it has ended well can use it at
        once. Raises ConfigError and the like for a model that does not fit its base."""
        row = FineTunedModel(
            name=name_of(job),
            owner=job.owner,
            place=job.place,
            job_id=job.id,
            root=job.model,
            model_type=job.job_type,
            title=None,
            description=None,
            created_at=time.time(),
            archived=False,
        )
        async with self._syncing:
            base = registry.find(row.root)
            if base is not None and registry.find(row.name) is None:
                self._add(await in_pool("models", self._load, row, base), registry)
            await asyncio.to_thread(self._insert, job, row, losses)
        return row

    def get(self, name: str, owner: str) -> FineTunedModel:
        """Raises ApiError 404 for a model that is not there, or not this owner's."""
        with self.database.read() as session:
            return _find(session, name, owner)

    def update(self, name: str, owner: str, **values: str | bool | None) -> FineTunedModel:
        """Raises ApiError 404."""
        with self.database.write() as session:
            row = _find(session, name, owner)
            for field, value in values.items():
                setattr(row, field, value)
        return row

    def delete(self, name: str, owner: str) -> None:
        """With all that its job has left. Raises ApiError 404."""

        def delete(session: Session) -> FineTunedModel:
            row = _find(session, name, owner)
            session.delete(row)
            return row

        shutil.rmtree(self.jobs.folder_of(self.database.free(delete).job_id), ignore_errors=True)

    def _of_place(self) -> Sequence[FineTunedModel]:
        with self.database.read() as session:
            return session.scalars(select(FineTunedModel).where(FineTunedModel.place == self.jobs.place)).all()

    async def _serve(self, row: FineTunedModel, registry: ModelRegistry) -> ServedModel | None:
        base = registry.find(row.root)
        if base is None:  # the server was started without it this time
            return None
        try:
            model = await in_pool("models", self._load, row, base)
        except (TramontaneError, OSError) as error:
            if row.name not in self._unfit:
                log.error("%s is not served: %s", row.name, error)
            self._unfit.add(row.name)
            return None
        self._add(model, registry)
        return model

    def _add(self, model: ServedModel, registry: ModelRegistry) -> None:
        registry.add(model)
        self._served.add(model.name)

    def _load(self, row: FineTunedModel, base: ServedModel) -> ServedModel:
        folder = JobFolder(self.jobs.folder_of(row.job_id)).model
        return serve_fine_tuned(
            base, row.name, folder, owner=row.owner, job=row.job_id, created=int(row.created_at), kind=row.model_type
        )

    def _insert(
        self, job: FineTuningJob, row: FineTunedModel, losses: Mapping[str, Sequence[tuple[int, float]]]
    ) -> None:
        with self.database.write() as session:
            found = session.get(FineTuningJob, job.id, with_for_update=True)
            if found is None or found.status != job.status:
                return
            session.merge(row)
            found.fine_tuned_model, found.losses = row.name, dict(losses)
            set_status(session, found, SUCCESS)


def name_of(job: FineTuningJob) -> str:
    """As Mistral names them: ft:BASE:OWNER:DAY[:SUFFIX]:JOB."""
    day = time.strftime("%Y%m%d", time.gmtime(job.created_at))
    owner = hashlib.sha256(job.owner.encode()).hexdigest()[:8]
    parts = ["ft", "" if job.job_type == "completion" else job.job_type, job.model, owner, day, job.suffix, job.id[:8]]
    return ":".join(part for part in parts if part)


def _find(session: Session, name: str, owner: str) -> FineTunedModel:
    row = session.get(FineTunedModel, name)
    if row is None or row.owner != owner:
        raise ApiError(404, f"there is no fine-tuned model {name[:200]!r}", param="model_id", code="model_not_found")
    return row

"""Services: what every route may need, made once per server and found at `app.state.services`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated

from fastapi import Depends, Request

from tramontane.server.auth import Gate
from tramontane.server.batch.jobs import BatchJobs
from tramontane.server.batch.runner import BatchRunner
from tramontane.server.body_budget import BodyBudget
from tramontane.server.document_work import DocumentWork
from tramontane.server.files.files import Files
from tramontane.server.fine_tuning.jobs import FineTuningJobs
from tramontane.server.fine_tuning.models import FineTunedModels
from tramontane.server.fine_tuning.runner import FineTuningRunner
from tramontane.server.idempotency.once import Idempotency
from tramontane.server.metrics import Metrics
from tramontane.server.models import ModelRegistry
from tramontane.server.request_record import RequestRecord
from tramontane.server.responses.store import StoredResponses
from tramontane.server.settings import ServerSettings
from tramontane.server.store.database import Database
from tramontane.server.threads import FairThreads


@dataclass(slots=True, eq=False)
class Services:
    settings: ServerSettings
    registry: ModelRegistry
    metrics: Metrics
    database: Database
    files: Files
    gate: Gate
    batch_jobs: BatchJobs
    batch_runner: BatchRunner
    stored_responses: StoredResponses
    idempotency: Idempotency
    fine_tuning_jobs: FineTuningJobs
    fine_tuned_models: FineTunedModels
    fine_tuning_runner: FineTuningRunner
    body_budget: BodyBudget
    transfers: FairThreads = field(default_factory=partial(FairThreads, 4, "transfers", per_owner=3))
    """Read and write files, and check short ones."""
    checks: FairThreads = field(default_factory=partial(FairThreads, 3, "checks", per_owner=1))
    """Check long files, and make jobs of them: minutes of work."""
    document_work: DocumentWork = field(default_factory=DocumentWork)
    observers: Sequence[Callable[[RequestRecord], None]] = ()

    def observe(self, record: RequestRecord) -> None:
        for observer in self.observers:
            observer(record)


async def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(_services)]

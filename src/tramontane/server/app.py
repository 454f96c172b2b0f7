"""create_app: the whole HTTP surface of one server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

import tramontane
from tramontane.errors import TramontaneError
from tramontane.server.auth import LOOPBACK, Caller, Gate, require_policies, require_safe_address
from tramontane.server.batch.jobs import BatchJobs
from tramontane.server.batch.runner import Answer, BatchRunner
from tramontane.server.body_bounds import body_bounds
from tramontane.server.body_budget import body_budget
from tramontane.server.dialect import Dialect
from tramontane.server.dispatch import dispatch
from tramontane.server.failures import add_error_handlers
from tramontane.server.fine_tuning.models import FineTunedModels
from tramontane.server.fine_tuning.runner import FineTuningRunner
from tramontane.server.guard import LOCAL_NAMES, MIB, BodyLimit, Guard, GuardPolicy
from tramontane.server.idempotency.once import Idempotency
from tramontane.server.limits import RateLimits
from tramontane.server.load import load_registry
from tramontane.server.metrics import Metrics
from tramontane.server.models import ModelRegistry
from tramontane.server.openapi import add_openapi
from tramontane.server.responses.store import StoredResponses
from tramontane.server.routes import (
    batch_jobs,
    batches,
    chat,
    completions,
    docs,
    documents,
    embeddings,
    fim,
    fine_tuned_models,
    fine_tuning_jobs,
    health,
    metrics,
    models,
    moderations,
    responses,
    usage,
)
from tramontane.server.routes import (
    files as files_routes,
)
from tramontane.server.running_requests import RunningRequests
from tramontane.server.services import Services
from tramontane.server.settings import ServerSettings
from tramontane.server.state import State, open_state
from tramontane.server.store.tie import holds_tie, renew_tie
from tramontane.server.usage.writer import UsageWriter
from tramontane.server.web_page import WebPage
from tramontane.tasks import cancelled

log = logging.getLogger(__name__)

ROUTERS = (
    health.router,
    metrics.router,
    docs.router,
    models.router,
    chat.router,
    fim.router,
    completions.router,
    embeddings.router,
    moderations.router,
    responses.router,
    documents.router,
    usage.router,
    files_routes.router,
    batch_jobs.router,
    batches.router,
    fine_tuning_jobs.router,
    fine_tuned_models.router,
)

SWEEP_S = 600.0
BATCH_PRIORITY = 4
"""Of the engine: a request of a batch lets everyone pass who comes within the next four times `aging_steps` steps."""


def create_app(settings: ServerSettings, registry: ModelRegistry | None = None) -> FastAPI:
    """The app serves the models of `registry`, or loads those of `settings` when it starts."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        services: Services = app.state.services
        async with contextlib.AsyncExitStack() as stack:  # what is opened here is closed in reverse at the end
            if registry is None:
                services.registry = await asyncio.to_thread(load_registry, settings)
                for model in services.registry:
                    stack.callback(model.llm.shutdown)
            stack.callback(database.close)
            usage_writer.start()
            stack.callback(usage_writer.close)
            house = keep_house(state, stored_responses, idempotency, trash_days=settings.trash_days)
            await stack.enter_async_context(running(house))
            await stack.enter_async_context(running(services.batch_runner.run()))
            await services.fine_tuned_models.sync(services.registry)  # before the first request asks for one
            await stack.enter_async_context(running(services.fine_tuned_models.watch(services.registry)))
            await stack.enter_async_context(running(services.fine_tuning_runner.run(services.registry)))
            yield

    app = FastAPI(
        title="Tramontane",
        version=tramontane.__version__,
        docs_url=None,  # FastAPI's pages load their scripts from a foreign host
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    counters = Metrics(settings.price_per_hour)
    served = ModelRegistry() if registry is None else registry
    state = open_state(settings)
    database, files, tuning_jobs = state.database, state.files, state.fine_tuning_jobs
    database.keep_reserve()
    require_safe_address(settings.host, database)
    gate = Gate(database, RateLimits(), RunningRequests(settings.max_concurrent_requests))
    jobs = BatchJobs(database, files.contents, files.quotas)
    runner = BatchRunner(jobs, gate, answers_of(app), concurrency=settings.batch_concurrency)
    stored_responses = StoredResponses(database, days=settings.response_days, quotas=files.quotas)
    idempotency = Idempotency(database)
    usage_writer = UsageWriter(database, days=settings.usage_days, request_log=settings.request_log)
    observers = [counters.observe, usage_writer.observe]
    tuned_models = FineTunedModels(tuning_jobs)
    tuning_runner = FineTuningRunner(tuning_jobs, tuned_models, settings)
    app.state.services = Services(
        settings=settings,
        registry=served,
        metrics=counters,
        database=database,
        files=files,
        gate=gate,
        batch_jobs=jobs,
        batch_runner=runner,
        stored_responses=stored_responses,
        idempotency=idempotency,
        fine_tuning_jobs=tuning_jobs,
        fine_tuned_models=tuned_models,
        fine_tuning_runner=tuning_runner,
        observers=observers,
        body_budget=body_budget(settings),
    )
    add_error_handlers(app)
    require_policies(ROUTERS)
    for router in ROUTERS:
        app.include_router(router)
    add_openapi(app, ROUTERS)
    policy = guard_policy(settings)
    services: Services = app.state.services
    app.add_middleware(BodyLimit, bounds_of=lambda path: body_bounds(path, policy, services.registry))
    if policy.origins:  # without credentials: a page must hold a key of its own, never a cookie
        app.add_middleware(
            CORSMiddleware,
            allow_origins=sorted(policy.origins),
            allow_methods=("GET", "POST", "PUT", "PATCH", "DELETE"),
            allow_headers=("*",),
            expose_headers=("*",),
            allow_private_network=True,
        )
    app.add_middleware(Guard, policy=policy)
    app.mount("/", WebPage(), name="web_page")
    return app


def guard_policy(settings: ServerSettings) -> GuardPolicy:
    """On loopback without further names, only those of this machine; elsewhere keys protect it, whatever its name."""
    hosts = None if settings.host not in LOOPBACK else LOCAL_NAMES
    if settings.allowed_host:
        hosts = LOCAL_NAMES | {name.lower() for name in settings.allowed_host}
    return GuardPolicy(
        hosts=hosts,
        origins=frozenset(settings.cors_origin or ()),
        max_upload_bytes=settings.max_upload_mib * MIB,
    )


def answers_of(app: FastAPI) -> Answer:
    """What a batch's requests are answered with: the routes themselves."""

    async def answer(
        endpoint: str, body: Mapping[str, Any], caller: Caller, dialect: str
    ) -> tuple[int, dict[str, Any]]:
        kind: Dialect = "openai" if dialect == "openai" else "mistral"
        return await dispatch(app, endpoint, body, caller, dialect=kind, priority=BATCH_PRIORITY)

    return answer


async def keep_house(state: State, *expiring: StoredResponses | Idempotency, trash_days: int) -> None:
    try:
        await asyncio.to_thread(state.tell_missing)
    except Exception:
        log.exception("what is missing cannot be counted")
    while True:
        await asyncio.to_thread(sweep, state, *expiring, trash_days=trash_days)
        await asyncio.sleep(SWEEP_S)


def sweep(state: State, *expiring: StoredResponses | Idempotency, trash_days: int) -> None:
    """Delete what has expired and move what crashes have left to the trash; what fails is tried again the next time."""
    try:
        state.database.keep_reserve()
        for rows in expiring:
            rows.sweep()
        if not holds_tie(state.database, state.keepers):
            log.error("%s or a folder of it was exchanged while the server runs: nothing is swept", state.database.name)
            return
        state.files.sweep()
        state.fine_tuning_jobs.sweep()
        for keeper in state.keepers:
            keeper.entries.empty_trash(days=trash_days)
        if state.database.has_room:
            renew_tie(state.database, state.keepers)
    except (TramontaneError, OSError) as error:
        log.error("the sweep was cut short: %s", error)
    except Exception:
        log.exception("the sweep was cut short")


@contextlib.asynccontextmanager
async def running(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """`work` goes on in the background meanwhile."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        await cancelled(task)

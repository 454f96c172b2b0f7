"""Batches made and cancelled, once under an Idempotency-Key; each API shows them its own way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

from tramontane.server.auth import Caller
from tramontane.server.batch.create import create_batch
from tramontane.server.batch.requests import NewBatch
from tramontane.server.idempotency.records import Mark
from tramontane.server.services import Services
from tramontane.server.store.tables import BatchJob

Shown = Callable[[BatchJob], BaseModel]


async def made(request: Request, services: Services, caller: Caller, new: NewBatch, shown: Shown) -> Response:
    """Raises what `create_batch` raises."""

    async def make(mark: Mark) -> Response:
        threads = services.checks if new.input_files else services.transfers
        job = await threads.run(caller.owner, create_batch, services.batch_jobs, services.files, caller, new, mark)
        services.batch_runner.wake()
        return JSONResponse(shown(job).model_dump())

    async def find(job_id: str) -> Response:
        job = await asyncio.to_thread(services.batch_jobs.get, job_id, caller.owner)
        return JSONResponse(shown(job).model_dump())

    return await services.idempotency.once(request, caller, make, find)


async def cancelled(request: Request, services: Services, caller: Caller, job_id: str, shown: Shown) -> Response:
    """Raises what `BatchJobs.cancel` raises."""

    async def make(mark: Mark) -> Response:
        job = await asyncio.to_thread(services.batch_jobs.cancel, job_id, caller.owner)
        services.batch_runner.wake()
        return JSONResponse(shown(job).model_dump())

    return await services.idempotency.once(request, caller, make)

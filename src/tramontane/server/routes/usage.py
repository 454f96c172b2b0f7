"""/api/usage: what was asked of this server, and what it cost."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query

from tramontane.server.auth import Caller, authorize
from tramontane.server.services import ServicesDep
from tramontane.server.usage.report import By, usage_report

router = APIRouter(tags=["server"])


@router.get("/api/usage", summary="Requests, tokens, speed and cost, by model, key, day or hour")
async def usage(
    services: ServicesDep,
    caller: Annotated[Caller, Depends(authorize("usage"))],
    by: By = "model",
    since: Annotated[float, Query(ge=0, lt=2**40, description="Seconds since 1970.")] = 0.0,
) -> dict[str, Any]:
    """Keys with the scope `admin` see everyone's, others those of their owner."""
    owner = None if "admin" in caller.scopes else caller.owner
    price = services.settings.price_per_hour
    return await asyncio.to_thread(
        usage_report, services.database, by=by, since=since, owner=owner, price_per_hour=price
    )

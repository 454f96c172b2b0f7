"""/metrics, in Prometheus' text format."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Response
from prometheus_client import CONTENT_TYPE_LATEST

from tramontane.engine.engine import Engine
from tramontane.server.auth import authorize
from tramontane.server.services import ServicesDep

router = APIRouter(tags=["server"], dependencies=[Depends(authorize("admin"))])


@router.get("/metrics", summary="Counters and gauges for Prometheus", response_class=Response)
async def metrics(services: ServicesDep) -> Response:
    engines = [
        (model.name, await model.llm.engine.inspect(Engine.stats))
        for model in services.registry
        if model.adapter is None and model.llm.health().is_alive  # adapters share the engine of their base
    ]
    return Response(services.metrics.text(engines), media_type=CONTENT_TYPE_LATEST)

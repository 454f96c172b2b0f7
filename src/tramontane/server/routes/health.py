"""/health: whether the engines move, not whether a port is open."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from tramontane.server.services import ServicesDep

router = APIRouter(tags=["server"])


@router.get("/health", summary="Whether every model is alive and moving: 200, else 503")
async def health(services: ServicesDep) -> JSONResponse:
    models: dict[str, dict[str, Any]] = {}
    for model in services.registry:
        engine = model.llm.health()
        is_stuck = engine.is_busy and engine.stalled_s > services.settings.stall_s
        status = "dead" if not engine.is_alive else "stuck" if is_stuck else "ok"
        models[model.name] = {"status": status, "steps": engine.num_turns, "stalled_s": round(engine.stalled_s, 3)}
    is_well = all(model["status"] == "ok" for model in models.values())
    return JSONResponse({"status": "ok" if is_well else "unhealthy", "models": models}, 200 if is_well else 503)

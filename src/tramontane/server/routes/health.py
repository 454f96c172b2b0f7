"""/health: whether the engines move, not whether a port is open."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse

from tramontane.engine.engine_config import EngineConfig
from tramontane.server.auth import public
from tramontane.server.models import ServedModel
from tramontane.server.services import ServicesDep

router = APIRouter(tags=["server"], dependencies=[Depends(public)])


SLOWEST_FLOPS = {"cpu": 20e9, "cuda": 2e12}
"""Operations per second that a machine of the kind surely does; one that is slower needs `--stall-s`."""
LEAST_S = 10.0


def longest_step_s(model: ServedModel) -> float:
    """What a step of a full batch may take before the engine must be taken for stuck."""
    operations = 2 * model.llm.checkpoint.num_parameters * EngineConfig().max_batch_tokens
    return max(LEAST_S, operations / SLOWEST_FLOPS[model.llm.device.type])


def is_stuck(model: ServedModel, stall_s: float | None) -> bool:
    """Whether its engine has work and has not moved for `stall_s`; None: for longer than a step may take."""
    engine = model.llm.health()
    return engine.is_busy and engine.stalled_s > (stall_s or longest_step_s(model))


@router.get("/health", summary="Whether every model is alive and moving: 200, else 503")
async def health(services: ServicesDep) -> JSONResponse:
    models: dict[str, dict[str, Any]] = {}
    for model in services.registry:
        if model.adapter is not None:  # it moves with its base, and its name is its owner's to tell
            continue
        engine = model.llm.health()
        stands = is_stuck(model, services.settings.stall_s)
        status = "dead" if not engine.is_alive else "stuck" if stands else "ok"
        models[model.name] = {"status": status, "steps": engine.num_turns, "stalled_s": round(engine.stalled_s, 3)}
    is_well = all(model["status"] == "ok" for model in models.values())
    return JSONResponse({"status": "ok" if is_well else "unhealthy", "models": models}, 200 if is_well else 503)

"""Parts of Mistral's API that this server knows of and does not have: 501, not a 404 that looks like a wrong URL."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request

from tramontane.server.auth import authorize
from tramontane.server.errors import ApiError

PARTS = (
    *("/v1/ocr", "/v1/audio", "/v1/connectors", "/v1/observability", "/v1/workflows", "/v1/rag"),
    *("/v1/context", "/v1/admin", "/v1/agents", "/v1/conversations", "/v1/libraries", "/v2/prompts", "/v2/skills"),
    "/v1/fine_tuning",
)
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]

router = APIRouter(include_in_schema=False, dependencies=[Depends(authorize("inference"))])


async def refuse(request: Request) -> None:
    raise ApiError(501, f"{request.url.path} is not implemented by this server", code="not_implemented")


for part in PARTS:
    router.add_api_route(part, refuse, methods=METHODS)
    router.add_api_route(part + "/{rest:path}", refuse, methods=METHODS)

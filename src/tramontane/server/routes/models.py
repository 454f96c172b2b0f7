"""/v1/models: what is served, one card for each name and alias."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends

from tramontane.server.auth import Caller, authorize
from tramontane.server.errors import ApiError
from tramontane.server.models import ServedModel
from tramontane.server.schema.answers import Error, ModelCard, ModelList
from tramontane.server.services import ServicesDep

SAMPLING = ("temperature", "top_p", "presence_penalty", "frequency_penalty")
"""Fields of a request that every model has a value for where they are left out."""

router = APIRouter(prefix="/v1/models", tags=["models"])
CallerDep = Annotated[Caller, Depends(authorize("inference"))]


@router.get("", summary="All models", response_model=ModelList, response_model_exclude_none=False)
async def list_models(
    services: ServicesDep, caller: CallerDep, provider: str | None = None, model: str | None = None
) -> dict[str, Any]:
    seen = services.registry.seen_by(caller.owner)
    cards = [card_of(served, name) for served in seen for name in (served.name, *served.aliases)]
    if model is not None:
        cards = [card for card in cards if card["id"] == model]
    if provider is not None:
        cards = [card for card in cards if card["owned_by"] == provider]
    return {"object": "list", "data": cards}


@router.get("/{name:path}", summary="One model", response_model=ModelCard, responses={404: {"model": Error}})
async def get_model(name: str, services: ServicesDep, caller: CallerDep) -> dict[str, Any]:
    """Of whatever would answer a request that gives this name."""
    registry = services.registry
    return card_of(registry.look_up(name, caller.owner) or registry.get(name, caller.owner), name)


@router.delete(
    "/{name:path}", summary="Delete a fine-tuned model", responses={403: {"model": Error}, 404: {"model": Error}}
)
async def delete_model(
    name: str, services: ServicesDep, caller: Annotated[Caller, Depends(authorize("fine_tuning"))]
) -> dict[str, Any]:
    model = services.registry.get(name, caller.owner)
    if model.root is None:
        raise ApiError(403, f"{name} is a base model; only fine-tuned models can be deleted", param="model")
    if model.owner is None:  # one that the server was started with
        if "admin" not in caller.scopes:
            raise ApiError(
                403, f"{name} was given to the server when it started; a key with the scope admin unloads it"
            )
        services.registry.remove(model.name)
    else:
        await asyncio.to_thread(services.fine_tuned_models.delete, model.name, caller.owner)
        await services.fine_tuned_models.sync(services.registry)
    return {"id": name, "object": "model", "deleted": True}


def card_of(model: ServedModel, name: str) -> dict[str, Any]:
    """The card under one of the model's names; the others are its aliases."""
    names = (model.name, *model.aliases)
    return {
        "id": name,
        "object": "model",
        "created": model.created,
        "owned_by": "tramontane" if model.root is None else "owner",
        "name": model.title or name,
        "description": model.description,
        "max_context_length": model.llm.max_seq_len,
        "alias_of": None if name == model.name else model.name,
        "num_parameters": model.llm.checkpoint.num_parameters,
        "aliases": [other for other in names if other != name],
        "deprecation": None,
        "default_model_temperature": model.default_sampling.temperature,
        "default_sampling": {name: getattr(model.default_sampling, name) for name in SAMPLING},
        "capabilities": asdict(model.capabilities),
        "type": "base" if model.root is None else "fine-tuned",
        "job": model.job,
        "root": model.root,
        "archived": model.archived,
    }

"""/v1/fine_tuning/models: what jobs have made."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from tramontane.server.auth import Caller, authorize
from tramontane.server.endpoint import BODIES
from tramontane.server.idempotency.records import Mark
from tramontane.server.schema.base import json_body, validate
from tramontane.server.schema.fine_tuning import ArchivedModel, FineTunedModelObject, ModelUpdate, TargetObject
from tramontane.server.services import Services, ServicesDep
from tramontane.server.store.tables import FineTunedModel

PATH = "/v1/fine_tuning/models/{name:path}"
CAPABILITIES = ("completion_chat", "completion_fim", "function_calling", "fine_tuning", "classification")

router = APIRouter(tags=["fine-tuning"])
TuningCaller = Annotated[Caller, Depends(authorize("fine_tuning"))]
BODIES["ModelUpdate"] = ModelUpdate


@router.post(
    PATH + "/archive",
    summary="Answer no request with a model any more, and keep it",
    responses={200: {"model": ArchivedModel}},
)
async def archive(name: str, request: Request, services: ServicesDep, caller: TuningCaller) -> Response:
    return await _set_archived(request, services, name, caller, value=True)


@router.delete(
    PATH + "/archive", summary="Answer with an archived model again", responses={200: {"model": ArchivedModel}}
)
async def unarchive(name: str, request: Request, services: ServicesDep, caller: TuningCaller) -> Response:
    return await _set_archived(request, services, name, caller, value=False)


async def _set_archived(request: Request, services: Services, name: str, caller: Caller, *, value: bool) -> Response:
    async def make(mark: Mark) -> Response:
        await asyncio.to_thread(services.fine_tuned_models.update, name, caller.owner, archived=value)
        await services.fine_tuned_models.sync(services.registry)
        return JSONResponse(ArchivedModel(id=name, archived=value).model_dump())

    return await services.idempotency.once(request, caller, make)


@router.patch(
    PATH,
    summary="Name or describe a model",
    responses={200: {"model": FineTunedModelObject}},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ModelUpdate"}}},
        }
    },
)
async def update(name: str, request: Request, services: ServicesDep, caller: TuningCaller) -> Response:
    async with json_body(request, caller) as data:
        body = validate(ModelUpdate, data)
    given = body.model_dump(exclude_unset=True)
    values = {{"name": "title"}.get(field, field): value for field, value in given.items()}

    async def make(mark: Mark) -> Response:
        row = await asyncio.to_thread(services.fine_tuned_models.update, name, caller.owner, **values)
        await services.fine_tuned_models.sync(services.registry)
        return JSONResponse(_model_object(services, row).model_dump())

    return await services.idempotency.once(request, caller, make)


def _model_object(services: Services, row: FineTunedModel) -> FineTunedModelObject:
    """Of a model whose base is not served this time, without what the base would tell."""
    served = services.registry.find(row.name)
    can = {} if served is None else asdict(served.capabilities)
    classifier = None if served is None else served.classifier
    targets = None
    if classifier is not None:
        targets = [
            TargetObject(
                name=target,
                labels=list(labels),
                loss_function="single_class" if target in classifier.single else "multi_class",
            )
            for target, labels in classifier.labels.items()
        ]
    return FineTunedModelObject(
        id=row.name,
        created=int(row.created_at),
        owned_by=row.owner,
        workspace_id=row.owner,
        root=row.root,
        root_version="",
        archived=row.archived,
        name=row.title,
        description=row.description,
        capabilities={name: can.get(name, False) for name in CAPABILITIES},
        max_context_length=0 if served is None else served.llm.max_seq_len,
        job=row.job_id,
        model_type=row.model_type,  # type: ignore[arg-type]
        classifier_targets=targets,
    )

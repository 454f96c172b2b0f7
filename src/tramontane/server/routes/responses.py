"""/v1/responses: answers that are kept, fetched and gone on from, and how many tokens a request would be."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from fastapi.responses import JSONResponse

from tramontane.server.auth import Caller, authorize
from tramontane.server.endpoint import Call, Endpoint
from tramontane.server.errors import ApiError
from tramontane.server.idempotency.once import Attempt
from tramontane.server.responses.conversation import Conversation, read_conversation
from tramontane.server.responses.events import ResponseBuilder, kept_events, response_events
from tramontane.server.schema.response_request import ResponseInput, ResponseRequest
from tramontane.server.services import ServicesDep

TAG = "responses"
PATH = "/v1/responses/{response_id}"
router = APIRouter(tags=[TAG])
ResponseCaller = Annotated[Caller, Depends(authorize("inference"))]


async def answer(call: Call, request: ResponseRequest) -> dict[str, Any]:
    async with await _attempt(call, request) as attempt:
        if attempt.object_id is not None:
            return await _kept(call, attempt.object_id)
        call.mark = attempt.mark
        response = await _make(call, request)
        await attempt.keep(JSONResponse(response))
        return response


async def _make(call: Call, request: ResponseRequest) -> dict[str, Any]:
    await _require_room(call, request)
    conversation = await read_conversation(call, request)
    builder = _builder(call, request, conversation)
    for _ in builder.open():
        pass
    async with await conversation.start(call) as stream:
        async for delta in stream:
            call.saw_token()
            for _ in builder.take(delta):
                pass
        call.count_prompt(stream)
    for _ in builder.close():
        pass
    await builder.keep()
    return builder.response


async def stream(call: Call, request: ResponseRequest) -> AsyncGenerator[bytes]:
    async with contextlib.AsyncExitStack() as stack:
        attempt = await stack.enter_async_context(await _attempt(call, request))
        if attempt.object_id is not None:
            events = kept_events(await _kept(call, attempt.object_id))
        else:
            call.mark = attempt.mark
            await _require_room(call, request)
            conversation = await read_conversation(call, request)
            events = response_events(_builder(call, request, conversation), await conversation.start(call))
        stack.pop_all()  # it goes on until the stream has ended
    return attempt.recorded(events)


async def _attempt(call: Call, request: ResponseRequest) -> Attempt:
    """Of a response that is not kept, one without a key: it may be made twice."""
    return await call.services.idempotency.begin(call.keyed if _is_kept(call, request) else None)


async def _require_room(call: Call, request: ResponseRequest) -> None:
    if _is_kept(call, request):
        await asyncio.to_thread(call.services.stored_responses.require_room, call.caller)


def _is_kept(call: Call, request: ResponseRequest) -> bool:
    return request.store is not False and call.services.stored_responses.days > 0


async def _kept(call: Call, response_id: str) -> dict[str, Any]:
    row = await asyncio.to_thread(call.services.stored_responses.get, response_id, call.caller.owner)
    return row.body


def _builder(call: Call, request: ResponseRequest, conversation: Conversation) -> ResponseBuilder:
    if not call.services.stored_responses.days:
        request = request.model_copy(update={"store": False})
    return ResponseBuilder(call, request, conversation)


async def count_tokens(call: Call, request: ResponseInput) -> dict[str, Any]:
    conversation = await read_conversation(call, request)
    return {"object": "response.input_tokens", "input_tokens": len(conversation.plan.prompt.token_ids)}


Endpoint("/v1/responses", ResponseRequest, answer, stream, None, "Answer, in items", TAG).add_to(router)
Endpoint("/v1/responses/input_tokens", ResponseInput, count_tokens, None, None, "Tokens of a request", TAG).add_to(
    router
)


@router.get(PATH, summary="A response that is kept")
async def get(
    response_id: str, services: ServicesDep, caller: ResponseCaller, stream: Annotated[bool, Query()] = False
) -> dict[str, Any]:
    if stream:
        raise ApiError(400, "stream: a kept response is whole; fetch it without", param="stream")
    row = await asyncio.to_thread(services.stored_responses.get, response_id, caller.owner)
    return row.body


@router.delete(PATH, summary="Delete a response")
async def delete(response_id: str, services: ServicesDep, caller: ResponseCaller) -> dict[str, Any]:
    await asyncio.to_thread(services.stored_responses.delete, response_id, caller.owner)
    return {"id": response_id, "object": "response", "deleted": True}


@router.get(PATH + "/input_items", summary="What a response answers")
async def input_items(
    response_id: str,
    services: ServicesDep,
    caller: ResponseCaller,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Annotated[Literal["asc", "desc"], Query()] = "desc",
    after: Annotated[str | None, Query()] = None,
) -> dict[str, Any]:
    row = await asyncio.to_thread(services.stored_responses.get, response_id, caller.owner)
    items = row.input if order == "asc" else row.input[::-1]
    ids = [item["id"] for item in items]
    if after is not None:
        if after not in ids:
            raise ApiError(400, "after: no item of this response has that id", param="after")
        items = items[ids.index(after) + 1 :]
    page = items[:limit]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": len(items) > limit,
    }


@router.post(PATH + "/cancel", summary="Refused: responses are not made in the background")
async def cancel(response_id: str, services: ServicesDep, caller: ResponseCaller) -> dict[str, Any]:
    await asyncio.to_thread(services.stored_responses.get, response_id, caller.owner)
    raise ApiError(400, "only a response made in the background can be cancelled; close its stream instead")

"""/v1/responses, and how many tokens a request to it would be."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from fastapi import APIRouter

from tramontane.server.chat.plan import plan_chat
from tramontane.server.endpoint import Call, Endpoint
from tramontane.server.responses.chat_request import chat_request
from tramontane.server.responses.events import ResponseBuilder, response_events
from tramontane.server.schema.response_request import ResponseInput, ResponseRequest

router = APIRouter()


async def answer(call: Call, request: ResponseRequest) -> dict[str, Any]:
    plan = await plan_chat(call, chat_request(request))
    builder = ResponseBuilder(call, request, plan)
    for _ in builder.open():
        pass
    async with await plan.start(call) as stream:
        async for delta in stream:
            call.saw_token()
            for _ in builder.take(delta):
                pass
        call.prompt_tokens, call.cached_tokens = len(stream.prompt_token_ids), stream.num_cached_tokens
    for _ in builder.close():
        pass
    return builder.response()


async def stream(call: Call, request: ResponseRequest) -> AsyncGenerator[bytes]:
    plan = await plan_chat(call, chat_request(request))
    return response_events(call, request, plan, await plan.start(call))


async def count_tokens(call: Call, request: ResponseInput) -> dict[str, Any]:
    plan = await plan_chat(call, chat_request(request))
    return {"object": "response.input_tokens", "input_tokens": len(plan.prompt.token_ids)}


TAG = "responses"
Endpoint("/v1/responses", ResponseRequest, answer, stream, None, "Answer, in items", TAG).add_to(router)
Endpoint("/v1/responses/input_tokens", ResponseInput, count_tokens, None, None, "Tokens of a request", TAG).add_to(
    router
)

"""/v1/chat/completions."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from fastapi import APIRouter

from tramontane.server.chat.answer import chat_answer
from tramontane.server.chat.plan import plan_chat
from tramontane.server.chat.streaming import chat_events
from tramontane.server.endpoint import Call, Endpoint
from tramontane.server.schema.answers import ChatCompletion
from tramontane.server.schema.chat import ChatRequest

router = APIRouter()


async def answer(call: Call, request: ChatRequest) -> dict[str, Any]:
    plan = await plan_chat(call, request)
    async with await plan.start(call) as stream:
        async for _ in stream:
            call.saw_token()
        return chat_answer(call, plan, stream.completion())


async def stream(call: Call, request: ChatRequest) -> AsyncGenerator[bytes]:
    plan = await plan_chat(call, request)
    return chat_events(call, plan, await plan.start(call))


Endpoint("/v1/chat/completions", ChatRequest, answer, stream, ChatCompletion, "Answer a conversation", "chat").add_to(
    router
)

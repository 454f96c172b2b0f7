"""/v1/fim/completions: what belongs between two texts, in the shape of a chat answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from fastapi import APIRouter

from tramontane.server.chat.answer import chat_answer
from tramontane.server.chat.plan import AnswerPlan
from tramontane.server.chat.streaming import chat_events
from tramontane.server.endpoint import Call, Endpoint
from tramontane.server.errors import ApiError
from tramontane.server.schema.answers import ChatCompletion
from tramontane.server.schema.fim import FimRequest

router = APIRouter()


async def plan_fim(call: Call, request: FimRequest) -> AnswerPlan:
    """Without a suffix, the prompt is simply continued."""
    model = call.use(request.model)
    if not request.suffix:
        prompt = await model.llm.read_prompt(request.prompt)
    elif model.capabilities.completion_fim:
        prompt = await model.llm.read_gap(request.prompt, request.suffix)
    else:
        raise ApiError(400, f"the model {model.name} cannot fill in the middle; leave suffix out", param="suffix")
    return AnswerPlan(
        name=request.model,
        model=model,
        prompt=prompt,
        params=request.sampling(model.default_sampling),
        include_usage=request.stream_options is not None and request.stream_options.include_usage,
    )


async def answer(call: Call, request: FimRequest) -> dict[str, Any]:
    plan = await plan_fim(call, request)
    async with await plan.start(call) as stream:
        async for _ in stream:
            call.saw_token()
        return chat_answer(call, plan, stream.completion())


async def stream(call: Call, request: FimRequest) -> AsyncGenerator[bytes]:
    plan = await plan_fim(call, request)
    return chat_events(call, plan, await plan.start(call))


Endpoint("/v1/fim/completions", FimRequest, answer, stream, ChatCompletion, "Fill in the middle", "fim").add_to(router)

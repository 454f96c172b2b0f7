"""AnswerPlan: everything that is settled about a request before anything is computed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from tramontane.engine.sampling import SamplingParams
from tramontane.llm.async_llm import Stream
from tramontane.llm.prompt import Prompt
from tramontane.server.chat.attached import with_documents
from tramontane.server.chat.conversation import conversation, prefix_of
from tramontane.server.endpoint import Call
from tramontane.server.errors import ApiError
from tramontane.server.models import ServedModel
from tramontane.server.moderation.guardrails import apply_guardrails
from tramontane.server.schema.chat import ChatRequest, Tool
from tramontane.server.structured.constraints import constraints


@dataclass(frozen=True, slots=True)
class AnswerPlan:
    name: str  # of the model, as the request gave it
    model: ServedModel
    prompt: Prompt
    params: SamplingParams
    prefix: str = ""  # text of the answer that the request has begun and wants to see again
    include_usage: bool = False  # a stream ends with a chunk of its own for the usage
    guardrails: list[dict[str, Any]] = field(default_factory=list)  # what they found

    async def start(self, call: Call) -> Stream:
        return await call.start(self.model, self.prompt, self.params)


async def plan_chat(call: Call, request: ChatRequest) -> AnswerPlan:
    """Raises ApiError and TokenizerError for what can be told to be wrong, ApiError 403 for what guardrails block."""
    model = call.use(request.model)
    if not model.capabilities.completion_chat:
        raise ApiError(400, f"the model {model.name} cannot chat; use /v1/completions", param="model")
    functions = _functions(call, request)
    if functions and not model.capabilities.function_calling:
        raise ApiError(400, f"the model {model.name} knows no tools; leave tools out", param="tools")
    request = await with_documents(call, request)
    messages = conversation(call, request, model)
    prefix = prefix_of(messages)
    processors = await constraints(request, model, prefix, call.notes, call.caller.owner)
    for name in ("min_tokens", "ignore_eos"):
        if processors and getattr(request, name):
            raise ApiError(400, f"{name} does not go with tools or a response_format", param=name)
    params = request.sampling(
        model.default_sampling,
        prediction=await _prediction(request, model),
        logits_processors=processors,
        logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        prompt_logprobs=(request.top_prompt_logprobs or 0) if request.prompt_logprobs else None,
    )
    tools = [tool.model_dump() for tool in functions] or None
    prompt = await model.llm.read_prompt(messages, tools=tools)
    if not tools:
        prompt = dataclasses.replace(prompt, reads_calls=False)  # calls would be text that the model made up
    guardrails = await apply_guardrails(call, request.guardrails or [], messages, model)
    return AnswerPlan(
        name=request.model,
        model=model,
        prompt=prompt,
        params=params,
        prefix=prefix if request.has_prefix else "",
        include_usage=request.stream_options is not None and request.stream_options.include_usage,
        guardrails=guardrails,
    )


def _functions(call: Call, request: ChatRequest) -> list[Tool]:
    """The tools that run here, as functions of the client's do; the others are named in the notes. Raises ApiError for
    those where the call is strict, and where one of them would have to be called."""
    functions = request.functions
    for place, tool in enumerate(request.tools or ()):
        if place not in functions:
            name = f"tools[{place}].{tool.type}"
            if call.is_strict:
                raise ApiError(400, f"{name} does not run here; leave it out", param="tools")
            call.notes.ignored.add(name)
    choice = request.tool_choice
    if request.tools and not functions and choice in ("any", "required"):
        raise ApiError(400, f"tool_choice is {choice}, but none of the tools runs here", param="tool_choice")
    return list(functions.values())


async def _prediction(request: ChatRequest, model: ServedModel) -> tuple[int, ...]:
    """Tokens of the text that the answer may repeat; the engine verifies what it takes from them."""
    if request.prediction is None:
        return ()
    content = request.prediction.content
    text = content if isinstance(content, str) else "".join(chunk.text for chunk in content)
    return tuple(await model.llm.read_prediction(text))

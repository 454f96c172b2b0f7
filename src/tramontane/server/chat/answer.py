"""A whole answer to a chat request."""

from __future__ import annotations

from typing import Any

from tramontane.llm import Choice, Completion
from tramontane.server.chat.finish import finish_reason, require_sound
from tramontane.server.chat.logprobs import logprobs_json
from tramontane.server.chat.plan import AnswerPlan
from tramontane.server.endpoint import Call
from tramontane.tokenizer import AssistantMessage, ToolCall


def chat_answer(call: Call, plan: AnswerPlan, completion: Completion) -> dict[str, Any]:
    call.count(completion)
    answer = {
        "id": call.request_id,
        "object": "chat.completion",
        "created": call.created,
        "model": plan.name,
        "choices": [_choice(call, plan, completion, choice) for choice in completion.choices],
        "usage": call.usage,
    }
    if plan.guardrails:
        answer["guardrails"] = plan.guardrails
    return answer


def _choice(call: Call, plan: AnswerPlan, completion: Completion, choice: Choice) -> dict[str, Any]:
    require_sound(call, choice.finish_reason, choice.error)
    message = choice.message or AssistantMessage(choice.text)
    answer: dict[str, Any] = {
        "index": choice.index,
        "message": message_json(call, message, plan.prefix),
        "finish_reason": finish_reason(
            choice.finish_reason,
            dialect=call.dialect,
            has_calls=bool(message.tool_calls),
            is_cut_by_limit=len(choice.token_ids) == plan.params.max_tokens,
        ),
    }
    tokenizer = plan.model.llm.tokenizer
    if plan.params.logprobs is not None:
        answer["logprobs"] = logprobs_json(tokenizer, choice.logprobs or ())
    if plan.params.prompt_logprobs is not None:
        answer["prompt_logprobs"] = logprobs_json(tokenizer, completion.prompt_logprobs or ())
    return answer


def message_json(call: Call, message: AssistantMessage, prefix: str) -> dict[str, Any]:
    """Reasoning is a chunk of the content for Mistral's clients, a field of its own for others."""
    text = prefix + message.content
    calls = [tool_call_json(tool_call, place) for place, tool_call in enumerate(message.tool_calls)] or None
    content: str | list[dict[str, Any]] | None = text
    answer: dict[str, Any] = {"role": "assistant"}
    if call.dialect == "openai":
        answer |= {"content": None if calls and not text else text, "refusal": None}
        if message.thinking is not None:
            answer["reasoning_content"] = message.thinking
        if calls:
            answer["tool_calls"] = calls
        return answer
    if message.thinking is not None:
        content = [thinking_json(message.thinking, closed=message.thinking_closed)]
        content += [{"type": "text", "text": text}] if text else []
    return answer | {"content": content, "tool_calls": calls, "prefix": False}


def thinking_json(text: str, *, closed: bool) -> dict[str, Any]:
    return {"type": "thinking", "thinking": [{"type": "text", "text": text}], "closed": closed}


def tool_call_json(call: ToolCall, index: int) -> dict[str, Any]:
    return {**call.as_dict(), "index": index}

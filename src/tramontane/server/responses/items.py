"""The response object and its output items."""

from __future__ import annotations

from typing import Any

from tramontane.engine.request import TokenLogprobs
from tramontane.server.chat.logprobs import logprobs_json
from tramontane.server.endpoint import Call
from tramontane.server.schema.response_request import ResponseRequest
from tramontane.tokenizer import Tokenizer, ToolCall


def response_json(call: Call, request: ResponseRequest, status: str, **changes: Any) -> dict[str, Any]:
    """The object around the output, with everything the request has settled."""
    given = request.model_dump(by_alias=True, exclude_none=True)
    return {
        "id": f"resp_{call.request_id}",
        "object": "response",
        "created_at": call.created,
        "completed_at": None,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": request.max_tool_calls,
        "model": request.model,
        "output": [],
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": request.previous_response_id,
        "prompt_cache_key": request.prompt_cache_key,
        "reasoning": {"effort": None if request.reasoning is None else request.reasoning.effort, "summary": None},
        "store": request.store is not False,
        "temperature": request.temperature,
        "text": given.get("text", {"format": {"type": "text"}}),
        "tool_choice": given.get("tool_choice", "auto"),
        "tools": [_tool(tool) for tool in given.get("tools", [])],
        "top_logprobs": request.top_logprobs or 0,
        "top_p": request.top_p,
        "truncation": request.truncation or "disabled",
        "metadata": request.metadata or {},
        "usage": None,
        **changes,
    }


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    return {"strict": False, "description": None, "parameters": {}} | tool if tool["type"] == "function" else tool


def usage_json(call: Call, reasoning_tokens: int = 0) -> dict[str, Any]:
    return {
        "input_tokens": call.prompt_tokens,
        "input_tokens_details": {"cached_tokens": call.cached_tokens},
        "output_tokens": call.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": reasoning_tokens},
        "total_tokens": call.prompt_tokens + call.completion_tokens,
    }


def ending(finish_reason: str) -> dict[str, Any]:
    """`status` and `incomplete_details` of an answer that ended so."""
    if finish_reason == "length":
        return {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    return {"status": "completed", "incomplete_details": None}


def message_item(call: Call, place: int, text: str, logprobs: list[dict[str, Any]], status: str) -> dict[str, Any]:
    content = [] if status == "in_progress" else [text_part(text, logprobs)]
    return {
        "id": f"msg_{call.request_id}_{place}",
        "type": "message",
        "status": status,
        "role": "assistant",
        "content": content,
    }


def text_part(text: str, logprobs: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def reasoning_item(call: Call, place: int, text: str, status: str) -> dict[str, Any]:
    content = [{"type": "reasoning_text", "text": text}] if text else []
    return {
        "id": f"rs_{call.request_id}_{place}",
        "type": "reasoning",
        "summary": [],
        "content": content,
        "status": status,
    }


def call_item(call: Call, place: int, tool_call: ToolCall, status: str) -> dict[str, Any]:
    return {
        "id": f"fc_{call.request_id}_{place}",
        "type": "function_call",
        "call_id": tool_call.id,
        "name": tool_call.name,
        "arguments": "" if status == "in_progress" else tool_call.arguments_json,
        "status": status,
    }


def text_logprobs(tokenizer: Tokenizer, entries: tuple[TokenLogprobs, ...] | None) -> list[dict[str, Any]]:
    return [] if entries is None else list(logprobs_json(tokenizer, entries)["content"])

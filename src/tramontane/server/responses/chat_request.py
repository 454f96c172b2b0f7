"""A response request as the chat request it amounts to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tramontane.server.errors import ApiError
from tramontane.server.schema.base import validate
from tramontane.server.schema.chat import ChatRequest
from tramontane.server.schema.response_request import (
    FilePart,
    FunctionCallItem,
    FunctionOutputItem,
    FunctionTool,
    Item,
    NamedFunction,
    Part,
    ReasoningItem,
    ResponseInput,
    ResponseRequest,
    TextFormat,
    TextPart,
)


def chat_request(request: ResponseInput) -> ChatRequest:
    """Raises ApiError for content that no model here can read, and as `validate` does."""
    messages = (
        [{"role": "user", "content": request.input}] if isinstance(request.input, str) else _messages(request.input)
    )
    if request.instructions:
        messages.insert(0, {"role": "system", "content": request.instructions})
    body: dict[str, Any] = {
        "model": request.model,
        "messages": messages,
        "tools": [_tool(tool) for tool in request.tools or ()] or None,
        "tool_choice": _choice(request) if request.tools else None,
        "parallel_tool_calls": request.parallel_tool_calls,
        "response_format": None
        if request.text is None or request.text.format is None
        else _format(request.text.format),
        "reasoning_effort": None if request.reasoning is None else request.reasoning.effort,
    }
    if isinstance(request, ResponseRequest):
        body |= {
            "stream": request.stream,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "max_tokens": request.max_output_tokens,
            "logprobs": bool(request.top_logprobs),
            "top_logprobs": request.top_logprobs or None,
        }
    return validate(ChatRequest, body)


def _messages(items: Sequence[Item]) -> list[dict[str, Any]]:
    """Reasoning and calls become parts of the assistant's message they belong to."""
    messages: list[dict[str, Any]] = []
    for place, item in enumerate(items):
        match item:
            case FunctionOutputItem():
                content = _text(item.output, place)
                messages.append({"role": "tool", "tool_call_id": item.call_id, "content": content})
            case FunctionCallItem():
                function = {"name": item.name, "arguments": item.arguments}
                call = {"id": item.call_id, "type": "function", "function": function}
                _assistant(messages).setdefault("tool_calls", []).append(call)
            case ReasoningItem():
                if item.content:
                    _assistant(messages)["reasoning_content"] = "".join(part.text for part in item.content)
            case _:
                if item.role == "assistant":
                    message = _assistant(messages)
                    message["content"] = (message.get("content") or "") + _text(item.content, place)
                else:
                    messages.append({"role": item.role, "content": _content(item.content, place)})
    return messages


def _assistant(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """The assistant's message at the end, begun if there is none."""
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant"})
    return messages[-1]


def _content(content: str | Sequence[Part], place: int) -> str | list[dict[str, Any]]:
    """Text, or chunks where there are files among it."""
    if isinstance(content, str) or not any(isinstance(part, FilePart) for part in content):
        return _text(content, place)
    return [_file(part) if isinstance(part, FilePart) else {"text": _text([part], place)} for part in content]


def _file(part: FilePart) -> dict[str, Any]:
    if part.file_url is not None and part.file_id is None and part.file_data is None:
        return {"type": "document_url", "document_url": part.file_url, "document_name": part.filename}
    return {"type": "file", "file": part.model_dump(include={"file_id", "file_data", "filename"})}


def _text(content: str | Sequence[Part], place: int) -> str:
    if isinstance(content, str):
        return content
    for part in content:
        if not isinstance(part, TextPart):
            raise ApiError(
                400, f"input.{place}: content of type {part.type} cannot be read by the models here", param="input"
            )
    return "".join(part.text for part in content if isinstance(part, TextPart))


def _tool(tool: FunctionTool) -> dict[str, Any]:
    return {"type": "function", "function": tool.model_dump(exclude={"type"}, exclude_none=True)}


def _choice(request: ResponseInput) -> str | dict[str, Any] | None:
    choice = request.tool_choice
    return {"type": "function", "function": {"name": choice.name}} if isinstance(choice, NamedFunction) else choice


def _format(wanted: TextFormat) -> dict[str, Any]:
    if wanted.type != "json_schema":
        return {"type": wanted.type}
    if wanted.schema_ is None:
        raise ApiError(400, "text.format.schema is missing", param="text")
    schema = {"name": wanted.name or "answer", "schema": wanted.schema_, "strict": bool(wanted.strict)}
    return {"type": "json_schema", "json_schema": schema}
